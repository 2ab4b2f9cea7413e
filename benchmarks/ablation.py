"""MMARD's open points by evidence: one training for each reading and seed, and a table of where they end.

    python benchmarks/ablation.py OUT -c specs/digits/compare.toml --epochs 40      # digits, a CPU
    sh benchmarks/mmard.sh DATA_DIR RN18_FILE WRN_FILE                              # CIFAR-10, one GPU

Everything but OUT, --seeds, --jobs, --cells and --n goes to `robustdistill train`. Stopped, the same command goes on
where it was. Several runs share a device (--jobs). `ratio` is the norm of TRD's parameter gradient over that of the
KL, at the end of training. `against` is another row: the two columns after it are the mean difference to it, seed by
seed, +- the standard error of that mean. TRD needs S(x), and that forward moves BatchNorm whatever TRD's weight is;
so TRD is compared with a weight of 1e-12, which runs it and does not feel it, and that with a weight of 0, which does
not.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from robustdistill.report.numbers import mean_of, spread
from robustdistill.report.tables import Table, markdown

ATTACK = "pgd-trades"
NOTHING = 1e-12


class Cell(NamedTuple):
    """One reading of MMARD: its settings, and the cell that it is compared with."""

    settings: tuple[str, ...]
    against: str


def reading(scale: str, space: str, reduction: str, alpha: float = 1) -> Cell:
    """KL at `scale` + alpha TRD on `space`, reduced over the batch by `reduction`."""
    outer = {"kl_scale": scale, "space": space, "reduction": reduction, "alpha": alpha}
    against = {NOTHING: f"{scale}, no TRD", 0: "batchmean, no TRD"}.get(alpha, f"{scale}, alpha 1e-12")
    return Cell(tuple(f"outer.{k}={v}" for k, v in outer.items()), against)


def protocol(*settings: str) -> Cell:
    """The literal reading with another attack."""
    return Cell((*reading("batchmean", "prob", "mean").settings, *settings), "batchmean, prob mean")


CELLS = {
    **{f"{scale}, no TRD": reading(scale, "prob", "mean", alpha=0) for scale in ("batchmean", "rslad")},
    **{f"{scale}, alpha 1e-12": reading(scale, "prob", "mean", NOTHING) for scale in ("batchmean", "rslad")},
    **{
        f"{scale}, {space} {reduction}": reading(scale, space, reduction)
        for scale in ("batchmean", "rslad")
        for space in ("prob", "logit")
        for reduction in ("mean", "sum")
    },
    **{f"batchmean, {space} mean, alpha 10": reading("batchmean", space, "mean", 10) for space in ("prob", "logit")},
    "T(x') detached": protocol("inner.teacher_grad=detach"),
    "BN train": protocol("attack_bn=train"),
    "BN train, statistics put back": protocol("attack_bn=train_frozen_stats"),
}


class Ended(NamedTuple):
    """Where a run ended: fractions right on the test images, and TRD's gradient over the KL's."""

    clean: float
    robust: float
    ratio: float | None


def command(*words: str | Path) -> None:
    """The program itself, in a process with one thread where it shares a CPU."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    program = [sys.executable, "-m", "robustdistill", *map(str, words)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(program)} ended with {done.returncode}:\n{done.stderr}")


def finish(out: Path, name: str, seed: int, train: Sequence[str], judge: Sequence[str]) -> None:
    """The run of one cell and seed, begun, gone on with or only judged: whatever is missing."""
    folder = place(out, name, seed)
    if folder.exists() and not (folder / "result.json").exists():
        command("train", "--resume", folder)
    elif not folder.exists():
        sets = (word for setting in CELLS[name].settings for word in ("--set", setting))
        command("train", *train, "--method", "mmard", *sets, "--seed", str(seed), "--out", folder)
    if not (folder / "evaluation.json").exists():
        device = [w for i, w in enumerate(train) if "--device" in train[max(0, i - 1) : i + 1]]
        command("eval", folder, "--attacks", ATTACK, "--checks", "0", *device, *judge)
    print(f"{name}, seed {seed}: {ended(folder)}", file=sys.stderr, flush=True)


def place(out: Path, name: str, seed: int) -> Path:
    """The folder of one run."""
    return out / name.replace(", ", "_").replace(" ", "-").replace("(x')", "") / f"s{seed}"


def ended(folder: Path) -> Ended:
    """What a finished run wrote."""
    verdicts = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["verdicts"]
    right = {v["attack"]: float(v["accuracy"]) for v in verdicts}
    lines = (json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines())
    ratios = [r for line in lines if (r := ratio(line)) is not None]
    return Ended(right["clean"], right[ATTACK], ratios[-1] if ratios else None)


def ratio(event: dict[str, Any]) -> float | None:
    """The gradient of TRD over that of the KL, of an event that has it."""
    found = (event.get("gradients") or {}).get("trd")
    return None if found is None else float(found)


def table(out: Path, names: Sequence[str], seeds: Sequence[int]) -> Table:
    """One row a cell."""
    runs = {name: [ended(place(out, name, seed)) for seed in seeds] for name in names}
    rows = tuple(row(name, runs) for name in names)
    return Table(("reading", "clean", "PGD_T", "against", "PGD_T", "clean", "ratio"), rows, words=1)


def row(name: str, runs: dict[str, list[Ended]]) -> tuple[str, ...]:
    """Accuracies in %, differences in points."""
    mine, other = runs[name], runs.get(CELLS[name].against)
    ratios = [r.ratio for r in mine if r.ratio is not None]
    return (
        name,
        spread(mean_of([r.clean for r in mine])),
        spread(mean_of([r.robust for r in mine])),
        CELLS[name].against if other is not None and other is not mine else "-",
        *(difference(mine, other, field) for field in ("robust", "clean")),
        f"{mean_of(ratios).mean:.2g}" if ratios else "-",
    )


def difference(mine: list[Ended], other: list[Ended] | None, field: str) -> str:
    """Mean of the differences of equal seeds, in points, +- its standard error."""
    if other is None or other is mine:
        return "-"
    gap = mean_of([100 * (getattr(a, field) - getattr(b, field)) for a, b in zip(mine, other, strict=True)])
    return f"{gap.mean:+.2f}" + ("" if gap.std is None else f" ± {gap.std / gap.n**0.5:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cells", default="", help="only those whose name contains one of these, separated by |")
    parser.add_argument("--n", help="judge on the first N test images only")
    mine, train = parser.parse_known_args()
    judge = ["--n", mine.n] if mine.n else []
    seeds, wanted = [int(s) for s in mine.seeds.split(",")], mine.cells.split("|")
    names = [name for name in CELLS if any(part in name for part in wanted)]
    with ThreadPoolExecutor(mine.jobs) as pool:
        list(
            pool.map(lambda job: finish(mine.out, job[1], job[0], train, judge), [(s, n) for s in seeds for n in names])
        )
    print(markdown(table(mine.out, names, seeds)))


if __name__ == "__main__":
    main()
