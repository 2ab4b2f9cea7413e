"""`robustdistill study`: many runs from one file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from robustdistill.errors import UserError, nearest

if TYPE_CHECKING:
    from robustdistill.study.folder import Folder

RUN = "run"
Flag = typer.Option
ProfileFlag = Annotated[str, Flag("--profile", help="Another size of the study, such as mini.", metavar="NAME")]
Target = Annotated[Path, typer.Argument(help="A study's file, or its folder.", metavar="STUDY")]
OutFlag = Annotated[Path | None, Flag("--out", help="Folder of its runs. [runs/STUDY]", metavar="DIR")]


class _WithDefault(TyperGroup):
    """`study FILE` is `study run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, [RUN, *args] if args and args[0] not in known else args)


app = typer.Typer(
    cls=_WithDefault, help="Many runs from one file: shared by workers, gone on with, put into one table."
)


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(RUN, short_help="Do what is left of a study (also: study FILE).")
def do(
    target: Target,
    profile: ProfileFlag = "",
    out: OutFlag = None,
    workers: Annotated[
        int | None, Flag(help="Processes, each with one GPU. [one a GPU, or 1]", metavar="N", min=1)
    ] = None,
    retry: Annotated[bool, Flag("--retry", help="Try again too what cannot succeed, such as bad input.")] = False,
    slurm: Annotated[
        str | None,
        Flag(
            help="Submit the workers to SLURM: its options, such as partition=gpu,timeout_min=600.", metavar="K=V,..."
        ),
    ] = None,
    dry_run: Annotated[bool, Flag("--dry-run", help="Say what would run and what it costs, write nothing.")] = False,
    json_: Annotated[bool, Flag("--json", help="One JSON object a run to stdout.")] = False,
) -> None:
    """Train and judge every run of a study that is not done yet, then show the table.

    Workers on this and on other machines share the runs through the study's folder: start the same command on each. A
    run whose worker died is taken over, one that failed is tried again the next time, and the rest go on. Stopped or
    killed anywhere, the same command goes on from there.
    """
    from robustdistill.cli import study_crew, study_plan

    folder = _folder(target, profile, out)
    if dry_run:
        study_plan.show(folder, as_json=json_)
        return
    study_crew.run(folder, workers=workers, retry=retry, slurm=slurm, as_json=json_)
    if not json_:
        _report(folder, "table", None)


@app.command("status", short_help="What is done, in whose hands, failed or waiting.")
def status(
    target: Target,
    profile: ProfileFlag = "",
    out: OutFlag = None,
    watch: Annotated[bool, Flag("--watch", help="Keep looking until nothing is left to do.")] = False,
    json_: Annotated[bool, Flag("--json", help="One JSON object a run.")] = False,
) -> None:
    """Show where each run of a study stands: done, in whose hands, failed and why, or waiting."""
    from robustdistill.cli import study_status

    study_status.show(_folder(target, profile, out), watch=watch, as_json=json_)


FORMATS = ("table", "markdown", "latex", "csv", "json", "html", "svg", "png")
FILES = ("html", "svg", "png")


@app.command("report", short_help="The study's table: means over seeds, the paper's numbers beside them.")
def report(
    target: Target,
    profile: ProfileFlag = "",
    out: OutFlag = None,
    form: Annotated[str, Flag("--format", help=f"{', '.join(FORMATS)}.", metavar="NAME")] = FORMATS[0],
    file: Annotated[
        Path | None,
        Flag("--file", help="New file for it, not stdout; html, svg and png need one.", metavar="FILE"),
    ] = None,
    publish: Annotated[
        Path | None, Flag(help="Write each row as a flat JSON file into DIR/STUDY.", metavar="DIR")
    ] = None,
) -> None:
    """Put what a study has found so far into one table: mean ± standard deviation over seeds, in %.

    The numbers of a paper stand beside ours where it has them for the same data, student, teacher, radius and length.
    """
    if form not in FORMATS:
        raise UserError(f"there is no format {form!r}{nearest(form, FORMATS)}")
    if form in FILES and file is None:
        raise UserError(f"{form} is written to a file: add --file study.{form}")
    if file is not None and file.exists():
        raise UserError(f"{file} exists already; choose another --file")
    folder = _folder(target, profile, out)
    if publish is not None:
        from robustdistill.cli import publishing

        for path in publishing.publish(folder, publish):
            print(path)
        return
    _report(folder, form, file)


def _report(folder: "Folder", form: str, file: Path | None) -> None:
    from robustdistill.cli import study_table

    study_table.show(folder, form, file)


@app.command("work", hidden=True)
def work(
    path: Annotated[Path, typer.Argument(help="A study's folder.")],
    called: Annotated[str, typer.Argument(help="The study's name, with its profile's.")],
    since: Annotated[str, Flag(help="When the study was started: what failed later is left.")],
    parent: Annotated[int, Flag(help="End when this process has ended; 0 for none.")] = 0,
) -> None:
    """One worker of a study, as `study run` starts it."""
    from robustdistill.cli import study_work

    study_work.work(path, called, since, parent)


def _folder(target: Path, profile: str, out: Path | None) -> "Folder":
    from dataclasses import replace

    from robustdistill.cli.folders import RUNS
    from robustdistill.study.folder import find_folder, refuse_run

    if not target.exists():
        raise UserError(
            f"there is no study {target}; name a study's file, such as specs/paper/table3.toml, or its folder"
        )
    found = find_folder(target, profile, RUNS)
    found = found if out is None else replace(found, path=out)
    refuse_run(found.path)
    return found
