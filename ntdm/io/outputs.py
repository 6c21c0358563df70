"""Output files: whole or not there at all, kept when they were made with the same config, else refused."""

import contextlib
import io
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from ntdm.config.reading import difference


def up_to_date(
    path: Path, made_with: Mapping[str, Any], description: Mapping[str, Any], overwrite: bool
) -> bool:
    """Whether an existing finished output can be kept.

    True: same config, skip. False: `overwrite` was asked. ValueError: another config, keys named.
    """
    if overwrite:
        return False
    changed = difference(made_with, description)
    if changed:
        raise ValueError(f"{path} was made with another config ({changed}); pass --overwrite to replace it")
    return True


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final`, renamed onto it only when the block ends without an error.

    Raises ValueError where `final` is a device or the like, or a folder and what was written is none.
    """
    if final.exists() and not (final.is_file() or final.is_dir()):
        raise ValueError(f"{final} is no file that could be replaced: name another")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{_host()}-{os.getpid()}.part{final.suffix}")
    try:
        yield temporary
        if final.is_dir() and not temporary.is_dir():
            raise ValueError(f"{final} is a folder, where a file is to be written: name another")
        os.replace(temporary, final)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_hdf5(final: Path, copy_of: Path | None = None) -> Iterator["WholeFile"]:
    """An HDF5 file open for writing, new or a copy of another, renamed onto `final` when the block ends well.

    Raises OSError when the disk is full, at the latest when the block ends; `final` is then as it was before.
    """
    with atomic_path(final) as temporary:
        if copy_of is not None:
            shutil.copyfile(copy_of, temporary)
        with WholeFile(temporary, final, new=copy_of is None) as file:
            yield file
        file.check()


class WholeFile(h5py.File):
    """An HDF5 file whose writes never fail in the library's sight.

    After a failed write the library can neither flush nor close the file, and brings the process down at its
    exit. So the failure is kept from it, and :meth:`check` tells of it.
    """

    def __init__(self, path: Path, name: Path, new: bool) -> None:
        self._sink, self._name = _Sink(path, "w+" if new else "r+"), name
        super().__init__(self._sink, "w" if new else "r+")

    def check(self) -> None:
        """Raises OSError where a write has failed since the file was opened."""
        error = self._sink.error
        if error is not None:
            raise OSError(error.errno, error.strerror, str(self._name))

    def close(self) -> None:
        """Close the library's file, then the system's."""
        super().close()
        self._sink.close()


class _Sink(io.FileIO):
    """A file that remembers its first failed write and ignores all later ones."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written under `folder`."""
    ours = re.compile(rf"\..+\.{re.escape(_host())}-(\d+)\.part")
    for leftover in list(folder.rglob(".*.part*")):
        match = ours.match(leftover.name)
        if match and not _runs(int(match[1])):
            with contextlib.suppress(OSError):  # in a folder that may only be read it harms nobody
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
