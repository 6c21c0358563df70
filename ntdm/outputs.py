"""Output files: whole or not there at all, kept when they were made with the same config, else refused."""

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from ntdm.config import difference


def finished(path: Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether an existing finished output can be kept.

    True: same config, skip. False: `overwrite` was asked. ValueError: another config, keys named.
    """
    if overwrite:
        return False
    changed = difference(made_with, wanted)
    if changed:
        raise ValueError(f"{path} was made with another config ({changed}); pass --overwrite to replace it")
    return True


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final`, renamed onto it only when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{_host()}-{os.getpid()}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_hdf5(final: Path, copy_of: Path | None = None) -> Iterator[h5py.File]:
    """An HDF5 file open for writing, new or a copy of another, renamed onto `final` when the block ends well.

    Raises OSError when the disk is full; `final` is then what it was before.
    """
    with atomic_path(final) as temporary:
        if copy_of is not None:
            shutil.copyfile(copy_of, temporary)
        file = h5py.File(temporary, "w" if copy_of is None else "r+")
        try:
            yield file
            file.flush()
        except BaseException as error:
            _abandon(file)
            if isinstance(error, OSError) and error.errno:  # the library's own text runs over three lines
                raise OSError(error.errno, os.strerror(error.errno), str(final)) from None
            raise
        file.close()


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written under `folder`."""
    ours = re.compile(rf"\..+\.{re.escape(_host())}-(\d+)\.part")
    for leftover in list(folder.rglob(".*.part*")):
        match = ours.match(leftover.name)
        if match and not _runs(int(match[1])):
            _remove(leftover)


def _host() -> str:
    return platform.node().replace(".", "-") or "local"


def _runs(process: int) -> bool:
    if process == os.getpid():  # whoever had the number before: a container gives the same one every time
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _abandon(file: h5py.File) -> None:
    """Close a file that is not wanted any more, even when its last writes find no room."""
    try:
        file.flush()
    except (OSError, RuntimeError):
        # A file that cannot be closed brings the process down at its exit: let the writes go nowhere.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
    with contextlib.suppress(OSError, RuntimeError):
        file.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
