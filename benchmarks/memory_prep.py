"""What preparing the worst file of each kind costs: processor time and resident memory.

    python benchmarks/memory_prep.py
    python benchmarks/memory_prep.py --only off_of_triangles

Puts each file of tests/worlds/hostile_files.py into the place of every file of its kind that the small
datasets of tests/worlds/small_trees.py have (one place for photos), and has the dataset prepared at the
default image size with every object, in a process of its own that makes the samples itself, as a worker does,
and reads the lists and CADs besides. Exits with 1 where that takes more than 1 GB or 5 seconds, or ends in
another way than a sample, a counted reason or one ValueError.
"""

import argparse
import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy
import PIL
import scipy

from ntdm.config.stages import PrepConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "worlds"))
import fuzz_damage
import hostile_files
import small_trees

SECONDS, BYTES = 5.0, 10**9


def peak() -> int:
    """Bytes resident at most since the process began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this needs Linux: /proc/self/status has no VmHWM")


def outcome(call, image_size: tuple[int, int]) -> str:  # type: ignore[no-untyped-def]
    """What comes of preparing a dataset, in a few words."""
    config = PrepConfig(image_size=image_size, objects="all")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            report = call.func(*call.args, **{**call.keywords, "config": config, "overwrite": True})
    except ValueError as error:
        return f"refused: {error}"
    dropped: dict[str, int] = {}
    for file in report.files:
        for reason, count in file.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    counts = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    return f"{sum(file.samples for file in report.files)} samples, {counts or 'none'} dropped"


def measured(call, image_size: tuple[int, int]) -> tuple[float, int, str]:  # type: ignore[no-untyped-def]
    """Processor seconds, bytes resident at most, and outcome of a call in a forked process."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 61))
        resource.setrlimit(resource.RLIMIT_AS, (8 * BYTES, 8 * BYTES))  # the machine is not ours alone
        start, text = time.process_time(), "crash"
        try:
            text = outcome(call, image_size)
        except BaseException as error:
            text = f"wrong: {type(error).__name__}: {error}"
        os.write(send, f"{time.process_time() - start}\n{peak()}\n{text[:3000]}".encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not said:
        return 60.0, 0, f"wrong: the process ended with {signal.Signals(os.WTERMSIG(status)).name}"
    seconds, size, text = said.split("\n", 2)
    return float(seconds), int(size), text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="files whose writer's name this regular expression finds")
    parser.add_argument("--image-size", type=int, nargs=2, default=(512, 512))
    args = parser.parse_args()
    print(f"numpy {numpy.__version__}, scipy {scipy.__version__}, Pillow {PIL.__version__}; "
          f"crops of {tuple(args.image_size)}; bounds {SECONDS:g} s, {BYTES / 1e6:.0f} MB")  # fmt: skip
    folder, wrong = Path(tempfile.mkdtemp(prefix="memory-prep-")), 0
    try:
        calls = small_trees.write_trees(folder / "trees")
        call = calls["pascal3d"]
        seconds, size, text = measured(call, tuple(args.image_size))
        assert "samples" in text, text
        print(f"{'sound files':24} {'':38} {seconds:5.1f} s {size / 1e6:6.0f} MB  {text}", flush=True)
        for kind, writers in hostile_files.WRITERS.items():
            places: list[tuple[str, Path]] = []
            for tree in calls:
                files = sorted((folder / "trees" / tree).rglob("*"))
                found = [path for path in files if fuzz_damage.KINDS.get(path.suffix) == kind]
                places += [(tree, path) for path in found if kind in ("csv", "list") or path == found[0]]
            if kind == "photo":
                places = [place for place in places if place[0] in ("pascal3d", "occluded")]
            for writer in writers:
                if args.only and not re.search(args.only, writer.__name__):
                    continue
                for tree, path in places:
                    before = path.read_bytes()
                    writer(path)
                    seconds, size, text = measured(calls[tree], tuple(args.image_size))
                    path.write_bytes(before)
                    shutil.rmtree(folder / "trees" / "cache", ignore_errors=True)
                    bad = seconds > SECONDS or size > BYTES or text.startswith("wrong")
                    wrong += bad
                    where = f"{tree}/{path.name}"
                    words = " ".join(text.split()).replace(str(folder / "trees"), "")
                    print(f"{writer.__name__:24} {where:38} {seconds:5.1f} s {size / 1e6:6.0f} MB  "
                          f"{'WRONG ' if bad else ''}{words[:150]}", flush=True)  # fmt: skip
    finally:
        shutil.rmtree(folder)
    print(f"{wrong} beyond the bounds")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
