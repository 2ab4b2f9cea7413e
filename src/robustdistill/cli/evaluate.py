"""`robustdistill eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from robustdistill.errors import UserError

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
    data_dir: Annotated[str | None, Flag(help="Folder that holds it. [downloaded]", metavar="DIR")] = None,
    n: Annotated[int | None, Flag("--n", help="The first N test images only.", metavar="N", min=1)] = None,
    eps: Annotated[str | None, Flag(help="L-inf radius: 0.03 or 8/255. [the target's]", metavar="NUMBER")] = None,
    batch_size: Annotated[int, Flag(help="Images in one forward at most.", metavar="N", min=1)] = 250,
    seed: Annotated[int | None, Flag(help="Seed of the attacks. [the run's, or 0]", metavar="N")] = None,
    device: Annotated[str, Flag(help="auto, cpu, cuda or cuda:N.", metavar="NAME")] = "auto",
    aa_engine: Annotated[
        str, Flag(help="AutoAttack by our own engine, or by the package pyautoattack.", metavar="own|reference")
    ] = "own",
    checks_on: Annotated[
        int, Flag("--checks", help="Images to look for masked gradients on; 0 for none.", metavar="N", min=0)
    ] = 200,
    json_: Annotated[bool, Flag("--json", help="Verdicts to stdout, one JSON object a line.")] = False,
    out: Annotated[Path | None, Flag(help="New file for every verdict, image by image (JSON).", metavar="FILE")] = None,
) -> None:
    """Judge a network under attack: accuracy on the test images that each attack leaves.

    An attack that fails is no proof of robustness: read the alarms, and use more than one. The verdicts on a run are
    kept in its folder for `robustdistill compare`, beside those on other attacks that were reached alike; those on the
    whole test set are not replaced by others. Started by torchrun, several processes share the images.
    """
    from robustdistill import judging, noted, stored
    from robustdistill.cli import folders, judged, processes
    from robustdistill.registry import default_registry
    from robustdistill.store import manifest, rundir
    from robustdistill.targets import find_target

    registry, named = default_registry(), target

    def settled() -> Any:
        _refuse_existing(out)
        chosen = judging.chosen_attacks(judged.names(attacks), registry, {"aa": {"engine": aa_engine}})
        target = named or str(rundir.newest(folders.RUNS, lambda run: not stored.unjudged(run)).path)
        if Path(target).is_dir() and not (Path(target) / manifest.NAME).exists():
            rundir.open_run(Path(target))
        judging.check_options(n, eps, batch_size, device)
        found = find_target(target, registry, data, data_dir)
        case = judging.case(found, registry, n=n, eps=eps, seed=seed, batch_size=batch_size, device=device)
        facts = noted.facts(case, target, n=n, device=device)
        # The verdicts on one checkpoint are not those on its run.
        store = found.store if (Path(target) / rundir.SPEC).exists() else None
        if not processes.first():
            return case, chosen, facts, None, None
        return case, chosen, facts, store if store and judged.may_keep(store, case, facts) else None, out

    what = processes.one_by_one(settled)
    processes.together(lambda: judged.judge(*what, checks_on=checks_on, as_json=json_))


def _refuse_existing(out: Path | None) -> None:
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; choose another --out")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to hold --out {out}")
