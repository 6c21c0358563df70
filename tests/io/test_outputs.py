"""Outputs are whole or absent, whatever kills the writer; other configs are refused."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ntdm.io import outputs


def test_finished_keeps_refuses_or_replaces(tmp_path: Path) -> None:
    old, new = {"steps": 1, "seed": 0}, {"steps": 2, "seed": 0}
    assert outputs.up_to_date(tmp_path, old, old, overwrite=False)
    assert not outputs.up_to_date(tmp_path, old, new, overwrite=True)
    with pytest.raises(ValueError, match=r"another config \(steps: 1 -> 2\); pass --overwrite"):
        outputs.up_to_date(tmp_path, old, new, overwrite=False)


def test_atomic_path_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "a.txt"
    with outputs.atomic_path(final) as temporary:
        temporary.write_text("old")
        assert not final.exists()
        assert temporary.suffix == final.suffix

    def interrupted() -> None:
        with outputs.atomic_path(final) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert final.read_text() == "old"
    assert os.listdir(final.parent) == ["a.txt"]


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="/dev/null is no file"), outputs.atomic_path(Path(os.devnull)):
        pass


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    final = tmp_path / "a.csv"
    (final / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"a\.csv is a folder"), outputs.atomic_path(final) as part:
        part.write_text("new")
    assert os.listdir(tmp_path) == ["a.csv"] and os.listdir(final) == ["inside"]


def test_hdf5_has_its_name_when_whole(tmp_path: Path) -> None:
    final = tmp_path / "a.h5"
    with outputs.atomic_hdf5(final) as file:
        file["x"] = np.arange(3)
        assert not final.exists()

    def fail() -> None:
        with outputs.atomic_hdf5(final, copy_of=final) as file:
            del file["x"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with h5py.File(final) as file:
        assert file["x"][:].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.h5"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from ntdm.io.outputs import atomic_hdf5
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with atomic_hdf5(Path(sys.argv[1])) as file:
        stored = file.create_dataset("x", (64, 1 << 16), "u1", chunks=(1, 1 << 16))
        for i in range(64):
            stored[i] = np.random.default_rng(i).integers(0, 255, 1 << 16)
except OSError as error:
    print(error.filename, error.strerror)
"""


def test_hdf5_that_finds_no_room_is_an_error_and_no_crash(tmp_path: Path) -> None:
    # A limit on the size of files fails writes as a full disk does.
    final = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(final)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"{final} File too large"), done.stderr
    assert os.listdir(tmp_path) == []


def test_sweep_removes_what_dead_processes_left(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with outputs.atomic_path(tmp_path / "deep" / "a.b.csv") as mine:
        mine.write_text("")
        dead = mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{child.pid}."))
        alive = mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{os.getppid()}."))
        elsewhere = mine.with_name(f".a.b.other-host-{child.pid}.part.csv")
        dead.mkdir()
        (dead / "mask.png").touch()
        alive.touch()
        elsewhere.touch()
        outputs.sweep(tmp_path)
        assert sorted(p.name for p in mine.parent.iterdir()) == sorted([alive.name, elsewhere.name])
        mine.write_text("again")
    assert (tmp_path / "deep" / "a.b.csv").read_text() == "again"
