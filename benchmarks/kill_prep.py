"""Kills `ntdm prep-data` at random moments: does the same command afterwards give what a quiet run gives?

    python benchmarks/kill_prep.py --kills 50 --workers 4

Prepares a dataset of `make-data` once, undisturbed. Then, again and again: starts the same command into an
empty folder, ends it with SIGKILL after a random part of the time that the first run took, and runs the same
command to its end. Compared are the names of the files and all data and attributes in them. Nothing
half-written may be left, and no worker may outlive the kill. Exits with 1 where any of these fails.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np


def contents(cache: Path) -> dict[str, object]:
    """Every file below the folder, and every dataset and attribute of the cache files."""
    found: dict[str, object] = {}
    for path in sorted(p for p in cache.rglob("*") if p.is_file()):
        key = str(path.relative_to(cache))
        found[key] = None
        if path.suffix == ".h5" and not path.name.startswith("."):
            with h5py.File(path) as file:
                names: list[str] = []
                file.visit(names.append)
                arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
                found |= {f"{key} {name}": value for name, value in sorted(file.attrs.items())}
                found |= {f"{key}/{name}": file[name][()] for name in arrays}
    return found


def difference(found: dict[str, object], wanted: dict[str, object]) -> str | None:
    """The first thing that is not the same, or None."""
    for key in sorted({*found, *wanted}):
        if key not in found or key not in wanted or not np.array_equal(found[key], wanted[key]):
            return key
    return None


def workers_of(group: int) -> list[int]:
    """The running processes of a process group."""
    running = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(number) == group and state != "Z":
            running.append(int(stat.parent.name))
    return running


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--photos", type=int, default=60, help="a category and split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-prep-"))
    try:
        failures = run(args, folder)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(1 if failures else 0)


def run(args: argparse.Namespace, folder: Path) -> int:
    """The number of runs that were not as they should be."""
    ntdm = [sys.executable, "-c", "from ntdm.cli import main; main()"]
    sizes = [f"{key}_per_category={args.photos}" for key in ("train", "val")]
    make = [*ntdm, "make-data", str(folder / "data"), "--categories", "car,sofa", "--workers", "1"]
    subprocess.run(
        [*make, *(word for size in sizes for word in ("--set", size))], check=True, capture_output=True
    )
    root = folder / "data" / "PASCAL3D+_release1.1"

    def prep(cache: Path) -> list[str]:
        size = ["--image-size", "128", "128", "--workers", str(args.workers)]
        return [*ntdm, "prep-data", "pascal3d", "--root", str(root), "--cache", str(cache), *size]

    start = time.monotonic()
    subprocess.run(prep(folder / "quiet"), check=True, capture_output=True)
    seconds, wanted = time.monotonic() - start, contents(folder / "quiet")
    print(f"undisturbed: {seconds:.1f} s, {sum(key.endswith('.h5') for key in wanted)} files", flush=True)
    draw, failures, seen = random.Random(args.seed), 0, Counter()
    cache = folder / "killed"
    for kill in range(args.kills):
        after = draw.uniform(0.0, seconds)
        process = subprocess.Popen(
            prep(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        left = contents(cache) if cache.exists() else {}
        whole = sum(key.endswith(".h5") and not Path(key).name.startswith(".") for key in left)
        parts = sum(Path(key).name.startswith(".") for key in left)
        what = "before any file" if not left else f"{whole} files whole, {parts} half-written"
        if process.returncode == 0:
            what = "after the end"
        seen[what] += 1
        faults = [
            f"{key} is not as in the quiet run"
            for key in left
            if not Path(key.split(".h5")[0]).name.startswith(".")
            and difference({key: left[key]}, {key: wanted.get(key)})
        ]
        patience = time.monotonic() + 60
        while (running := workers_of(process.pid)) and time.monotonic() < patience:
            time.sleep(0.1)
        faults += [f"workers {running} outlived their parent"] if running else []
        again = subprocess.run(prep(cache), capture_output=True, text=True)
        if again.returncode:
            faults.append(f"the same command ended with {again.returncode}: {again.stderr.splitlines()[-1:]}")
        wrong = difference(contents(cache), wanted)
        faults += [f"{wrong} is not as in the quiet run"] if wrong else []
        for fault in faults:
            print(f"kill {kill + 1}, after {after:.2f} s, {what}: {fault}", flush=True)
        failures += bool(faults)
        print(
            f"{kill + 1}: killed after {after:.1f} s, {what}: {'wrong' if faults else 'as it should be'}",
            flush=True,
        )
        shutil.rmtree(cache)
    for what, count in sorted(seen.items()):
        print(f"killed {count:3d} times {'' if what.startswith(('before', 'after')) else 'with '}{what}")
    print(f"{args.kills} kills with {args.workers} workers: {failures} wrong")
    return failures


if __name__ == "__main__":
    main()
