"""`robustdistill eval`."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustdistill.cli import failures
from robustdistill.errors import UserError
from robustdistill.report.numbers import percent
from robustdistill.report.tables import Table

if TYPE_CHECKING:
    from robustdistill.evaluation.verdict import Verdict
    from robustdistill.judging import Target
    from robustdistill.registry import Registry
    from robustdistill.store.rundir import RunDir

Flag = typer.Option


def evaluate(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A run, a checkpoint, a teacher, a file of weights, ARCH@FILE, timm:NAME, hf-hub:USER/REPO or "
            "local-dir:FOLDER. [the newest run under runs/]",
            metavar="TARGET",
        ),
    ] = None,
    attacks: Annotated[str | None, Flag(help="Attacks. [clean,fgsm,pgd,pgd-trades,cw]", metavar="NAME,...")] = None,
    data: Annotated[str | None, Flag(help="Data set. [the target's]", metavar="NAME")] = None,
    data_dir: Annotated[str | None, Flag(help="Folder that holds the data set.", metavar="DIR")] = None,
    n: Annotated[int | None, Flag("--n", help="The first N test images only.", metavar="N", min=1)] = None,
    eps: Annotated[str | None, Flag(help="L-inf radius: 0.03 or 8/255. [the target's]", metavar="NUMBER")] = None,
    batch_size: Annotated[int, Flag(help="Images in one forward at most.", metavar="N", min=1)] = 250,
    seed: Annotated[int | None, Flag(help="Seed of the attacks. [the run's, or 0]", metavar="N")] = None,
    device: Annotated[str, Flag(help="auto, cpu, cuda or cuda:N.", metavar="NAME")] = "auto",
    json_: Annotated[bool, Flag("--json", help="Verdicts to stdout, one JSON object a line.")] = False,
    out: Annotated[Path | None, Flag(help="New file for every verdict, image by image (JSON).", metavar="FILE")] = None,
) -> None:
    """Judge a network under attack: accuracy on the test images that each attack leaves.

    An attack that fails is no proof of robustness: read the alarms, and use more than one. The verdicts on a run are
    kept in its folder for `robustdistill compare`.
    """
    from robustdistill import judging
    from robustdistill.cli import folders, progress
    from robustdistill.registry import default_registry
    from robustdistill.store import manifest, rundir

    _refuse_existing(out)
    registry, names = default_registry(), _names(attacks)
    judging.chosen_attacks(names, registry)
    target = target or str(rundir.newest(folders.RUNS).path)
    if Path(target).is_dir() and not (Path(target) / manifest.NAME).exists():
        rundir.open_run(Path(target))
    found = judging.find_target(target, registry, data, data_dir)
    options = {
        "n": n,
        "eps": found.eps if eps is None else eps,
        "seed": found.seed if seed is None else seed,
        "device": device,
        "batch_size": batch_size,
    }
    verdicts = _judge(found, names, registry, options, json_)
    facts = options | {"target": target, "data": found.data, "eps": verdicts[0].eps, "n": len(verdicts[0].correct)}
    facts["whole"] = n is None
    is_run = (Path(target) / rundir.SPEC).exists()  # the verdicts on one checkpoint are not those on its run
    _keep(found.store if is_run else None, out, verdicts, facts)
    if json_:
        progress.emit({"event": "judged", **facts, "accuracies": {v.attack: v.accuracy for v in verdicts}})
    else:
        _report(verdicts, facts, registry)


def _names(attacks: str | None) -> list[str]:
    """The attacks in the order in which they run: `clean` is always the first."""
    from robustdistill.judging import DEFAULT_ATTACKS

    given = [name.strip() for name in attacks.split(",") if name.strip()] if attacks else DEFAULT_ATTACKS
    return list(dict.fromkeys(["clean", *given]))


def _refuse_existing(out: Path | None) -> None:
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to hold --out {out}")


def _judge(
    found: "Target", names: Sequence[str], registry: "Registry", options: Mapping[str, Any], as_json: bool
) -> "list[Verdict]":
    """Each attack's verdict and the worst case of them, told as they come."""
    from robustdistill import judging
    from robustdistill.cli import progress, render

    judged = judging.evaluate(
        found.network, attacks=names, data=found.data, data_dir=found.directory, registry=registry, **options
    )
    verdicts = []
    for i, name in enumerate([*names, "worst"]):
        with render.waiting(f"{name} ({i + 1} of {len(names)})") if name in names else nullcontext():
            verdict = next(judged, None)
        if verdict is None:  # there is no worst case of one attack
            break
        verdicts.append(verdict)
        if as_json:
            progress.emit({"event": "verdict", **verdict.plain()})
    return verdicts


def _keep(store: "RunDir | None", out: Path | None, verdicts: "Sequence[Verdict]", facts: Mapping[str, Any]) -> None:
    from robustdistill import judging
    from robustdistill.store.atomic import write_atomic
    from robustdistill.store.plain import dumps

    if store is not None:
        judging.keep(store, verdicts, facts)
    if out is not None:
        write_atomic(out, dumps({**facts, "verdicts": [v.plain() for v in verdicts]}))


def _report(verdicts: "Sequence[Verdict]", facts: Mapping[str, Any], registry: "Registry") -> None:
    from robustdistill.cli import render

    print(f"{facts['target']}: {facts['n']:,} test images of {facts['data']}, eps {facts['eps']:.4g}\n")
    render.show(_table(verdicts, registry))
    render.say([f"{v.attack}: {failures.one_line(alarm)}" for v in verdicts for alarm in v.alarms])


def _table(verdicts: "Sequence[Verdict]", registry: "Registry") -> Table:
    rows = []
    for verdict in verdicts:
        v = verdict.plain()
        known = registry.units("attack").get(verdict.attack)
        interval = " - ".join(percent(p, 1) for p in v["interval95"])
        numbers = (percent(v["accuracy"]), interval, percent(v["worst_class"], 1), f"{verdict.seconds:.1f}")
        rows.append((verdict.attack, known.summary if known else "right under all of them", *numbers))
    return Table(
        ("attack", "what it is", "accuracy %", "95 % interval", "worst class", "seconds"), tuple(rows), words=2
    )
