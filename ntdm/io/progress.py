"""Progress with the time left: a bar on a terminal, a plain line about every ten seconds elsewhere.

Progress goes to stderr and results to stdout, so that a command's last line of stdout is the path it wrote.
Text is printed as it is: not laid out in the terminal's width, and no :code: or [tag] in it has a meaning.
"""

import codecs
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")

INTERVAL = 10.0  # seconds between two plain lines
NARROWEST = 40  # columns of a terminal that a bar fits into; some terminals and schedulers say 0
_stderr = Console(stderr=True, highlight=False)


def print_any_text() -> None:
    """Let stdout and stderr take any text, whatever their encoding: no result may end in an encoding error.

    What the encoding lacks is printed as the bytes of a file name (``os.fsencode``), so that a path comes out
    as the system has it, or as "?" where there are none.
    """
    codecs.register_error("ntdm", _as_bytes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ntdm")


def _as_bytes(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)

    def encoded(character: str) -> bytes:
        try:
            return os.fsencode(character)
        except UnicodeEncodeError:
            return b"?"

    return b"".join(map(encoded, error.object[error.start : error.end])), error.end


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield items and show how far the loop is.

    Args:
        items: of the loop.
        label: its name.
        total: number of items, where `len(items)` does not tell.
    """
    if not _speaks():
        return iter(items)
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _bar(items, label, total) if _has_bars() else _lines(items, label, total)


def say(text: str, result: bool = False, error: bool = False) -> None:
    """Print one line without breaking a bar. Of the processes that torchrun starts the first one prints.

    Args:
        text: the line.
        result: print to stdout, not to stderr.
        error: print in every process.
    """
    if not (_speaks() or error):
        return
    if _has_bars() and not result:
        _stderr.print(Text(text), soft_wrap=True)  # above a bar that is shown
    else:
        print(text, file=sys.stdout if result else sys.stderr, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _has_bars() -> bool:
    """Whether stderr is a terminal on which bars are shown."""
    return _stderr.is_terminal and _stderr.width >= NARROWEST


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
