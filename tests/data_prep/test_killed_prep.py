"""A prep that is killed: what has its final name is whole, and the same command ends as if undisturbed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import raw_trees as raw
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data

CONFIG = PrepConfig(image_size=(32, 48), scale=0.15)

# The process ends itself, as SIGKILL would, when it calls the function for the n-th time.
KILLED = """
import os, signal, sys
from pathlib import Path
from ntdm.io import cache
from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data

root, folder, name, count = sys.argv[1:]
count = int(count)

def counting(function):
    def called(*args, **kwargs):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return called

if __name__ == "__main__":
    if name == "replace":
        os.replace = counting(os.replace)
    else:
        cache.CacheWriter.add = counting(cache.CacheWriter.add)
    config = PrepConfig(image_size=(32, 48), scale=0.15)
    prep_data.run("pascal3d", Path(root), Path(folder), config, workers=2)
"""


@pytest.mark.parametrize(
    ("name", "count", "whole"),
    [
        ("add", 14, ["train/car.h5"]),  # in the middle of the second file
        ("replace", 1, []),  # the first file is written, and not yet called by its name
    ],
)
def test_the_same_command_after_a_kill_gives_what_an_undisturbed_one_gives(tmp_path, name, count, whole):
    root = raw.write_pascal3d(tmp_path / "p", train=10, val=10)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    arguments = [str(root), str(tmp_path / "killed"), name, str(count)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    def files(folder: Path) -> dict[str, bytes]:
        below = folder / "pascal3d"
        return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*") if p.is_file()}

    prep_data.run("pascal3d", root, tmp_path / "quiet", CONFIG)
    left, wanted = files(tmp_path / "killed"), files(tmp_path / "quiet")
    parts = [path for path in left if ".part" in path]
    assert len(parts) == 1 and sorted(set(left) - set(parts)) == whole
    assert all(left[path] == wanted[path] for path in whole)
    report = prep_data.run("pascal3d", root, tmp_path / "killed", CONFIG)
    assert [file.kept for file in report.files] == [bool(whole), False]
    assert files(tmp_path / "killed") == wanted
