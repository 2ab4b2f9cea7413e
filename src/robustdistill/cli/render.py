"""What a terminal shows: tables, and a run while it goes. The only file that knows rich."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table as RichTable
from rich.text import Text

from robustdistill.cli.progress import View, advance, eta, heading, ratios
from robustdistill.events import Evaluated, Event, Finished, Started, Warned
from robustdistill.report.numbers import duration, percent
from robustdistill.report.tables import Table

UNBOUNDED = 10_000  # columns: what is piped is not wrapped


def on_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(stream: TextIO) -> Console:
    """Plain text without a terminal, whatever the environment says of colours."""
    tty = stream.isatty()
    width = None if tty else UNBOUNDED
    return Console(file=stream, force_terminal=tty, width=width, markup=False, highlight=False, emoji=False)


def put(drawn: RenderableType) -> None:
    """On stdout; piped, without the blanks at the ends of lines."""
    screen = console(sys.stdout)
    if screen.is_terminal:
        screen.print(drawn)
        return
    with screen.capture() as captured:
        screen.print(drawn)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show(table: Table) -> None:
    """A table on stdout; its columns move closer together before anything is wrapped."""
    put(_drawn(table, console(sys.stdout).width))


def _drawn(table: Table, width: int) -> RichTable:
    wide = sum(max(map(len, cells)) + 2 for cells in zip(table.columns, *table.rows, strict=True)) - 2
    gap = int(wide <= width)
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, gap),
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
        show_edge=False,
    )
    for i, cells in enumerate(zip(table.columns, *table.rows, strict=True)):
        words = i < table.words  # what does not fit is wrapped: words anywhere, numbers between them only
        longest = max(len(word) for cell in cells for word in cell.split(" "))
        drawn.add_column(
            cells[0], justify="left" if words else "right", min_width=None if words else longest, overflow="fold"
        )
    for i, row in enumerate(table.rows):
        drawn.add_row(*(Text(cell, "bold" if (i, j) in table.bold else "") for j, cell in enumerate(row)))
    return drawn


def show_titled(tables: Iterable[tuple[str, Table]]) -> None:
    """Tables on stdout, a line between them, each under its title if it has one."""
    for i, (title, table) in enumerate(tables):
        if i or title:
            print(f"\n{title}" if title else "")
        show(table)


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Labels and texts, side by side, on stdout; an empty label goes on with the one before."""
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")  # an address is wrapped, not cut
    for label, text in pairs:
        grid.add_row(label, text)
    put(grid)


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """A moving sign with a text on stderr while the block runs, on a terminal only; gives what changes the text."""
    if not on_terminal(sys.stderr):
        yield lambda _: None
        return
    with console(sys.stderr).status(text) as sign, giving_way(sign):
        yield sign.update


@contextmanager
def giving_way(moving: Live | Status) -> Iterator[None]:
    """What moves on the terminal stops once something is logged in the block: a download shows bars of its own."""

    def stop(_: logging.LogRecord) -> bool:
        moving.stop()
        return True

    log = logging.getLogger("robustdistill")
    log.addFilter(stop)
    try:
        yield
    finally:
        log.removeFilter(stop)


def live(events: Iterable[Event]) -> Finished:
    """Drives a run and shows on stderr where it stands; what runs on what stays, the picture goes away at the end."""
    view, finished, screen = View(), None, console(sys.stderr)

    def now() -> RenderableType:
        return picture(view)

    moving = Live(console=screen, get_renderable=now, transient=True, redirect_stdout=False, refresh_per_second=5)
    with moving, giving_way(moving):
        for event in events:
            moving.start()
            view = advance(view, event)
            if isinstance(event, Started):
                screen.print(heading(event))
            if isinstance(event, Warned):
                screen.print(f"warning: {event.message}")
            finished = event if isinstance(event, Finished) else finished
    assert finished is not None, "a run ends with Finished"
    return finished


@contextmanager
def refreshed() -> Iterator[Callable[[str, Table], None]]:
    """On a terminal a line and a table on stderr that are drawn anew with each call, and go away at the end."""
    screen = console(sys.stderr)
    if not on_terminal(sys.stderr):
        yield lambda _, __: None
        return
    with Live(console=screen, transient=True, auto_refresh=False, redirect_stdout=False) as moving:
        yield lambda text, table: moving.update(Group(Text(text, "bold"), _drawn(table, screen.width)), refresh=True)


def picture(view: View) -> RenderableType:
    """Phase and bar, the numbers of the last steps, the last and the best epoch."""
    if view.started is None:
        return Text(f"{view.phase} ...")
    parts: list[RenderableType] = [_bar(view), Text(_numbers(view), style="dim")]
    if view.last is not None:
        parts.append(_epochs(view.last, view.best))
    return Group(*parts)


def _bar(view: View) -> RenderableType:
    grid = RichTable.grid(padding=(0, 2), expand=True)
    for ratio in (None, None, 1, None):
        grid.add_column(ratio=ratio, no_wrap=True)
    left = eta(view)
    grid.add_row(
        Text(f"{view.started.method if view.started else ''}  {view.phase}", style="bold"),
        f"epoch {view.place[0]}/{view.epochs}",
        ProgressBar(total=view.steps, completed=view.steps_done),
        f"ETA {duration(left)}" if left is not None else "",
    )
    return grid


def _numbers(view: View) -> str:
    if view.stepped is None:
        return ""
    s = view.stepped
    ratio = ratios(view.trained) if view.trained else ""
    parts = (
        f"step {view.place[1]}/{s.steps}",
        f"loss {s.loss:.4g}",
        f"lr {s.lr:.3g}",
        f"{s.images_per_second:,.0f} images/s",
    )
    return "  ".join((*parts, ratio))


def _epochs(last: Evaluated, best: Evaluated | None) -> RenderableType:
    grid = RichTable(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(("", "epoch", f"{last.split} clean", f"{last.split} {last.attack}")):
        grid.add_column(name, justify="right" if i else "left")
    rows: Sequence[tuple[str, Evaluated | None]] = (("last", last), ("best", best))
    for label, e in rows:
        if e is not None:
            grid.add_row(label, str(e.epoch + 1), percent(e.clean), percent(e.robust))
    return grid


def say(sentences: Sequence[str]) -> None:
    """Sentences under a table, one a line."""
    if sentences:
        print("\n" + "\n".join(sentences))


def prose(*sentences: str) -> None:
    """Sentences on stdout, which a terminal breaks between words; not for what is to be copied as one line."""
    for sentence in sentences:
        put(Text(sentence))
