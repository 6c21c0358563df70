"""Progress with the time left: a bar on a terminal, a plain line about every ten seconds elsewhere.

Progress goes to stderr and results to stdout, so that a command's last line of stdout is the path it wrote.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

INTERVAL = 10.0  # seconds between two plain lines
_stderr = Console(stderr=True, highlight=False)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and show how far the loop is. `total` is needed where `len(items)` is not known."""
    if not _speaks():
        return iter(items)
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _bar(items, label, total) if _stderr.is_terminal else _lines(items, label, total)


def say(text: str, result: bool = False, error: bool = False) -> None:
    """Print one line without breaking a bar: to stderr, or to stdout where it is a `result`.

    Of the processes that torchrun starts the first speaks, and whichever has an `error` to tell.
    """
    if not (_speaks() or error):
        return
    # Plain print: rich lays text out in the terminal's width, which may be 0, and reads :codes: in paths.
    print(text, file=sys.stdout if result else sys.stderr, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _bar(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_stderr, transient=False) as progress:
        yield from progress.track(items, total=total, description=label)


def _lines(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    start = first = shown = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if count == 1:
            first = now
        if now - shown >= INTERVAL:
            shown = now
            print(
                f"{label}: {_progress(count, total, now - start, now - first)}", file=sys.stderr, flush=True
            )
    if shown > start:  # a loop that never showed itself needs no last line
        print(f"{label}: done in {_clock(time.monotonic() - start)}", file=sys.stderr, flush=True)


def _progress(count: int, total: int | None, elapsed: float, since_first: float) -> str:
    if not total:
        return f"{count} in {_clock(elapsed)}"
    if count == 1:  # the first item pays for starting up: a rate would be a fright
        return f"1/{total}"
    left = since_first / (count - 1) * max(total - count, 0)
    return f"{count}/{total} ({100 * count // total} %), {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
