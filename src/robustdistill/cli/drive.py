"""Running what `train` asked for: one run, several seeds, or the rest of a run."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustdistill.cli import processes, progress, render, results, signals
from robustdistill.errors import Stopped
from robustdistill.events import Event, Finished
from robustdistill.store.plain import plain

if TYPE_CHECKING:
    from robustdistill.spec import RunSpec


def train(specs: "Sequence[RunSpec]", folders: Sequence[Path], as_json: bool) -> None:
    """Trains one spec after the other, each into its folder, and reports."""
    from robustdistill import run

    done = []
    for i, (spec, folder) in enumerate(zip(specs, folders, strict=True)):
        if len(specs) > 1 and not as_json:
            print(f"seed {spec.seed} ({i + 1} of {len(specs)}) into {folder}", file=sys.stderr)
        with signals.listening() as asked:
            done.append(follow(run.train(spec, out=folder, stop=asked), folder, as_json, asked))
    if len(done) > 1:
        _report_seeds(done, as_json)
    elif not as_json:
        _report(done[0])


def resume(path: Path, as_json: bool) -> None:
    """Goes on with a run."""
    from robustdistill import run

    with signals.listening() as asked:
        finished = follow(run.resume(path, stop=asked), path, as_json, asked)
    if not as_json:
        _report(finished)


def follow(events: Iterable[Event], folder: Path, as_json: bool, asked: signals.Asked) -> Finished:
    """Drives a run to its end; stopped, it says how to go on."""
    on = f"go on with: robustdistill train --resume {quoted(folder)}"
    try:
        told = _armed(events, asked)
        if as_json:
            return progress.json_lines(told)
        return render.live(told) if render.on_terminal(sys.stderr) else progress.lines(told)
    except KeyboardInterrupt:
        print(f"interrupted; {on if folder.exists() else 'nothing was written'}", file=sys.stderr)
        raise
    except Stopped as error:
        if not (asked() or (asked.training and processes.several())):
            raise
        if asked.interrupted:
            print(f"{error}; {on}", file=sys.stderr)
            raise KeyboardInterrupt from None
        raise Stopped(f"{error}; {on}") from None


def _armed(events: Iterable[Event], asked: signals.Asked) -> Iterator[Event]:
    """From the first event on there is something to save."""
    for event in events:
        asked.training = True
        yield event


def quoted(*paths: Path | str) -> str:
    """Paths as a shell wants them."""
    return " ".join(shlex.quote(str(p)) for p in paths)


def _report(finished: Finished) -> None:
    render.show(results.result_table(finished.result))
    command = f"robustdistill eval {quoted(finished.path)}"
    render.say([f"test  {results.images(finished.result)}", f"run   {finished.path}", f"next  {command}"])


def _report_seeds(done: Sequence[Finished], as_json: bool) -> None:
    outcomes = [f.result for f in done]
    if as_json:
        mean = plain(results.aggregate(outcomes))
        runs = {"seeds": [r["seed"] for r in outcomes], "paths": [f.path for f in done]}
        progress.emit({"event": "aggregated", **runs, **mean})
        return
    render.show(results.seeds_table(outcomes))
    paths = [f.path for f in done]
    command = f"robustdistill compare {quoted(*paths)}"
    render.say([f"test  {results.images(outcomes[0])}", f"runs  {'  '.join(paths)}", f"next  {command}"])
