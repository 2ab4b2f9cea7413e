"""`robustdistill train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustdistill.cli import flags, folders, processes
from robustdistill.errors import UserError

if TYPE_CHECKING:
    from robustdistill.spec import RunSpec

Flag = typer.Option
GO_WITH_RESUME = {"resume", "json_"}


def train(
    context: typer.Context,
    config: Annotated[
        list[Path] | None, Flag("--config", "-c", help="Spec file; later ones win.", metavar="FILE")
    ] = None,
    method: Annotated[str | None, Flag(help="Method, or METHOD@VARIANT. [mmard]", metavar="NAME")] = None,
    inner: Annotated[str | None, Flag(help="What the attack ascends.", metavar="NAME")] = None,
    outer: Annotated[str | None, Flag(help="What the student descends.", metavar="NAME")] = None,
    with_: Annotated[str | None, Flag("--with", help="Modifiers around the method.", metavar="NAME,...")] = None,
    student: Annotated[str | None, Flag(help="Student; timm's: timm:NAME.", metavar="NAME|PKG.MOD:FACTORY")] = None,
    teacher: Annotated[
        list[str] | None,
        Flag(help="Teacher, once a role; timm's: hf-hub:USER/REPO.", metavar="[ROLE=]NAME|RUN|FILE|ARCH@FILE"),
    ] = None,
    data: Annotated[str | None, Flag(help="Data set. [the teacher's, or digits]", metavar="NAME")] = None,
    data_dir: Annotated[str | None, Flag(help="Folder that holds it. [downloaded]", metavar="DIR")] = None,
    eps: Annotated[str | None, Flag(help="L-inf radius: 0.03 or 8/255. [the data set's]", metavar="NUMBER")] = None,
    steps: Annotated[int | None, Flag(help="Steps of the attack.", metavar="N")] = None,
    epochs: Annotated[int | None, Flag(help="Epochs. [the method's]", metavar="N")] = None,
    batch_size: Annotated[int | None, Flag(help="Images a step. [the method's]", metavar="N")] = None,
    lr: Annotated[float | None, Flag(help="Learning rate at the start. [the method's]", metavar="NUMBER")] = None,
    seed: Annotated[int | None, Flag(help="Decides all randomness. [0]", metavar="N")] = None,
    seeds: Annotated[str | None, Flag(help="One run for each seed, then their mean.", metavar="N,N,...")] = None,
    device: Annotated[str | None, Flag(help="auto, cpu, cuda or cuda:N. [auto]", metavar="NAME")] = None,
    mode: Annotated[str | None, Flag(help="How steps run: auto, eager, compile, graph. [auto]", metavar="NAME")] = None,
    out: Annotated[Path | None, Flag(help="New run directory. [runs/DATA-METHOD-STUDENT-sSEED]", metavar="DIR")] = None,
    set_: Annotated[
        list[str] | None,
        Flag("--set", help="Any key of a spec: outer.alpha=0.5, limit_batches=2.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[Path | None, Flag(help="Go on with this run; takes no other flag.", metavar="RUN")] = None,
    print_spec: Annotated[bool | None, Flag("--print-spec", help="Print the complete spec (TOML) and stop.")] = None,
    dry_run: Annotated[bool | None, Flag("--dry-run", help="Prepare, say what would happen, write nothing.")] = None,
    json_: Annotated[bool | None, Flag("--json", help="Events to stdout, one JSON object a line.")] = None,
) -> None:
    """Train a student: make x' by ascending the inner objective, descend the outer one at x'.

    Settings come from, each over the one before: the data set, the method, spec files, --set, the other flags.
    Progress goes to stderr, results to stdout. Without --out the run gets a new folder under runs/. Started by
    torchrun, several processes share each batch: torchrun --nproc-per-node 2 -m robustdistill train
    """
    given = {k: v for k, v in context.params.items() if v is not None and v not in ([], ())}
    from robustdistill.cli import drive, dryrun

    if resume is not None:
        _only_resume(given)
        drive.resume(resume, bool(json_))
        return
    specs = processes.together(lambda: _specs(given))
    if print_spec:
        print(specs[0].to_toml(), end="")
    elif dry_run:
        processes.together(lambda: dryrun.show(specs, _folders(specs, out), as_json=bool(json_)))
    else:
        drive.train(specs, processes.together(lambda: _folders(specs, out)), bool(json_))


def _only_resume(given: Mapping[str, Any]) -> None:
    others = [flags.spelt(name) for name in given if name not in GO_WITH_RESUME]
    if others:
        raise UserError(
            f"--resume goes on with a run as it was asked for and takes no {', '.join(others)}; "
            "leave them out, or start a new run with -c RUN/spec.toml"
        )


def _specs(given: Mapping[str, Any]) -> "list[RunSpec]":
    """The spec that the flags describe, once for each seed."""
    if "seeds" in given and "seed" in given:
        raise UserError("--seed and --seeds exclude each other; give one of them")
    many = flags.seeds(given["seeds"]) if "seeds" in given else None
    from robustdistill.registry import default_registry
    from robustdistill.resolve import joined, resolve
    from robustdistill.spec import load_layer, set_layer

    asked = joined(set_layer(given.get("set_", ())), flags.layer(given))
    spec = resolve([*map(load_layer, given.get("config", ())), asked], default_registry())
    if spec.inner.name == "none" and "attack" in asked:
        raise UserError(
            f"{spec.method} ascends nothing (inner is none), so --steps and attack.* would change nothing; leave them "
            "out, or name what to ascend with --inner"
        )
    return [spec] if many is None else [spec.model_copy(update={"seed": seed}) for seed in many]


def _folders(specs: "list[RunSpec]", out: Path | None) -> list[Path]:
    if out is None:
        return [folders.default_folder(spec) for spec in specs]
    return [out] if len(specs) == 1 else folders.seed_folders(out, [spec.seed for spec in specs])
