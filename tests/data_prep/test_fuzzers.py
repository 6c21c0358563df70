"""A slice of the fuzzers, which are run at length by hand, and a proof that they see something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "worlds"


@pytest.mark.parametrize(("script", "cases"), [("fuzz_readers.py", "150"), ("fuzz_caches.py", "20")])
def test_some_damaged_files(script, cases):
    """A slice of the fuzzers, which are run at length by hand: every case another damage."""
    command = [sys.executable, str(HERE / script), "--cases", cases, "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cases} cases, 0 findings" in done.stdout


def test_the_fuzzer_sees_what_it_is_for(tmp_path):
    """It would be quiet, too, if it looked at nothing: a reader that unpickles is found out."""
    code = (
        "import runpy, sys, numpy as np\n"
        "sys.path.insert(0, {tests!r})\n"
        "sys.argv = [{script!r}, '--part', '0', '400']\n"
        "from ntdm.data_prep import samples\nfrom ntdm.data_prep.readers import nemo_prepared\n"
        "none = lambda array: array.dtype == object and array.shape == () and array.item() is None\n"
        "fields = lambda path: np.load(path, allow_pickle=True).items()\n"
        "loose = lambda path: {{name: array for name, array in fields(path) if not none(array)}}\n"
        "nemo_prepared.read_npz = samples.read_npz = loose\n"
        "runpy.run_path({script!r}, run_name='__main__')\n"
    ).format(script=str(HERE / "fuzz_readers.py"), tests=str(HERE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("pickle" in line.get("finding", "") for line in found), done.stderr[-2000:]
