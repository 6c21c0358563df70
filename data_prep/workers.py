"""Worker processes that leave Ctrl-C to their parent and never outlive it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any


@contextlib.contextmanager
def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of `workers` processes of one torch thread; the block's end cancels tasks not begun.

    Raises ValueError when a worker was killed, by the system for want of memory most often.
    """
    # Spawned, not forked: a forked child inherits OpenMP and HDF5 in a state neither supports.
    pool = ProcessPoolExecutor(workers, _Context(), _start, (initializer, initargs))
    try:
        yield pool
    except BrokenProcessPool:
        raise ValueError(
            f"a worker process of {workers} ended: for want of memory (try fewer workers), or because the "
            'script that calls this has no `if __name__ == "__main__":`'
        ) from None
    finally:
        with _interrupts_held():  # a second Ctrl-C would leave workers waiting, and the exit waiting for them
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start with Ctrl-C blocked, which the new process keeps from its first instruction on."""
        resource_tracker.ensure_running()  # its first start would unblock the signal
        with _interrupts_held():
            super().start()


class _Context(SpawnContext):
    Process = _Process


def _start(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A photo is too small a task to share among threads, and `workers` says how many there are. Work that
    # needs torch has imported it by now, with the module of `initializer`; some does without.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
