"""Damages the files of small datasets, one at a time, and has the readers prepare them.

    python tests/worlds/fuzz_readers.py --cases 100000 --processes 2
    python tests/worlds/fuzz_readers.py --only 4711          one case again, with what the readers said

Every case takes one file of one dataset (a list, a table, an .off, .mat, .npz or a photo), flips, cuts,
splices or replaces bytes of it, puts absurd values into its fields, or a link or a pipe in its place. What
may come out: samples that are sound, the readers' own counted reasons, one ValueError. What may not: another
error, a crash, 5 seconds of computing, 1 GB of memory, an array as large as a header claims, a program
started, an object unpickled, a file opened outside the dataset. Exits with 1 and names the cases where any of
these happened.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import fuzz_damage as mutations
import small_trees as trees
from ntdm.data_prep import prep_data
from ntdm.data_prep.listing import Listing
from ntdm.data_prep.raw.annotation import SampleError
from ntdm.data_prep.samples import make_samples
from ntdm.data_prep.write_caches import FAULTS
from ntdm.io.cache import Sample

write_trees, CONFIG = trees.write_trees, trees.CONFIG
damage, KINDS = mutations.damage, mutations.KINDS

SECONDS, BYTES = 5.0, 2**30  # of processor time; beyond what the process has before the first case
WAITING = 300  # seconds, whatever it waits for
REASONS = FAULTS | {
    "no_object", "other_class", "no_pose", "distance_not_positive", "no_cad_index", "no_bbox",
    "elevation_out_of_range", "listed_twice",
}  # fmt: skip


class Watch:
    """Hears from Python what the readers do; a list of what they must not."""

    def __init__(self, root: Path, outside: Path) -> None:
        self.root, self.outside, self.seen, self.on = str(root), str(outside), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(args[0]))
            ours = path.startswith(self.root) and not path.startswith(self.outside)
            if (
                not ours
                and not path.startswith((sys.prefix, sys.base_prefix))
                and not path.endswith((".py", ".pyc"))
            ):
                self.seen.append(f"opened {path}")
        elif event in (
            "pickle.find_class",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "subprocess.Popen",
            "os.fork",
        ):
            self.seen.append(event)


def sound(sample: Sample) -> str | None:
    """What is wrong with a sample, or None."""
    numbers = [*sample.viewpoint, sample.focal, *sample.principal_point, *sample.bbox]
    if not all(map(math.isfinite, numbers)) or sample.focal <= 0 or not sample.viewpoint[3] >= 0.5:
        return f"sample with viewpoint {sample.viewpoint}, focal {sample.focal}, bbox {sample.bbox}"
    if sample.image.shape != (*CONFIG.image_size, 3) or sample.image.dtype != np.uint8:
        return f"sample with image {sample.image.dtype} {sample.image.shape}"
    if not sample.name.isprintable() or "/" in sample.name:
        return f"sample named {sample.name!r}"
    return None


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and those it was raised in the wake of, hidden ones too."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__context__
    return chain


def run_cases(args: argparse.Namespace, indices: range) -> None:
    """Run these cases here; prints a line of JSON for each finding and one with the counts."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        _run_cases(args, indices, folder.resolve())
    finally:
        shutil.rmtree(folder)


def _run_cases(args: argparse.Namespace, indices: range, folder: Path) -> None:
    progress = open(args.progress, "w") if args.progress else None  # noqa: SIM115
    outside = folder / "outside"
    outside.write_text("secret")
    os.chdir(folder)
    calls = write_trees(folder / "trees")
    files: dict[str, list[tuple[str, Path]]] = collections.defaultdict(list)
    for tree in calls:
        for path in sorted((folder / "trees" / tree).rglob("*")):
            if path.suffix in KINDS:
                files[KINDS[path.suffix]].append((tree, path))
    kinds = sorted(files)
    results: list[Sample | SampleError] = []
    stem = ""

    def collect(listings: list[Listing], *_: object, **__: object) -> object:
        for listing in listings:
            assert set(listing.dropped) <= REASONS, listing.dropped
            # Of the photos that a damaged file is about, or of the first ones where it is about all.
            about = [i for i in listing.items if stem in (i.name, i.photo, i.annotation.stem)]
            for item in about or listing.items[:2]:
                results.extend(make_samples(listing, item, CONFIG))
        return argparse.Namespace(files=())

    prep_data.write_caches = collect
    watch, outcomes = Watch(folder / "trees", outside), collections.Counter()

    def found(index: int, text: str, done: str) -> None:
        print(json.dumps({"case": index, "finding": text, "damage": done}), flush=True)

    for late in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(late, chain=True)
    quiet = sys.stderr if args.only is not None else open(os.devnull, "w")  # noqa: SIM115
    for tree, call in calls.items():  # sound trees give samples, and load whatever is loaded late
        results.clear()
        with contextlib.redirect_stderr(quiet):
            call()
        assert results and all(isinstance(result, Sample) for result in results), (tree, results)
    Image.init()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    for index in indices:
        rng = np.random.default_rng([args.seed, index])
        kind = kinds[rng.integers(len(kinds))]
        tree, path = files[kind][rng.integers(len(files[kind]))]
        before, stem = path.read_bytes(), path.stem
        if progress:
            progress.seek(0)
            progress.write(json.dumps({"case": index, "damage": str(path)}).ljust(300))
            progress.flush()
        done = f"{path.relative_to(folder / 'trees')}: " + damage(
            rng, path, [p for _, p in files[kind]], outside
        )
        results.clear()
        raised: BaseException | None = None
        signal.setitimer(
            signal.ITIMER_PROF, 2 * SECONDS
        )  # ends the process; the parent goes on behind the case
        signal.alarm(WAITING)
        start, watch.on = time.process_time(), True
        try:
            with contextlib.redirect_stderr(quiet):
                calls[tree]()
        except ValueError as error:
            raised = error
            if args.only is not None:
                print(error)
        except Exception as error:
            raised = error
            found(index, f"{type(error).__name__}: {str(error)[:200]}", done)
        watch.on, seconds = False, time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        errors = [result for result in results if isinstance(result, SampleError)]
        for error in [raised, *errors]:
            if any(isinstance(cause, MemoryError) for cause in causes(error)):
                found(index, f"MemoryError behind {str(error)[:200]}", done)
        for error in errors:
            if error.reason not in REASONS or "\n" in error.text:
                found(index, f"reason {error.reason}: {error.text}", done)
        for result in results:
            fault = sound(result) if isinstance(result, Sample) else None
            if fault:
                found(index, fault, done)
        if seconds > SECONDS:
            found(index, f"took {seconds:.1f} s", done)
        for what in watch.seen:
            found(index, what, done)
        watch.seen.clear()
        if Path("pickle_was_run").exists():
            found(index, "a pickle was run", done)
            os.rmdir("pickle_was_run")
        outcome = "refused" if raised else "dropped" if errors else "samples" if results else "nothing"
        outcomes[f"{kind} {outcome}"] += 1
        if args.only is not None:
            print(done, outcome, *(f"{error.reason}: {error.text}" for error in errors), sep="\n")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > BYTES:
        found(-1, f"{peak / 2**20:.0f} MB of memory at most", "")
    print(json.dumps({"outcomes": outcomes, "peak": peak}), flush=True)


def run_part(args: argparse.Namespace, first: int, stop: int) -> tuple[list[dict], collections.Counter, int]:
    """Run cases in processes of their own, another after each crash; findings, outcomes, peak memory."""
    findings: list[dict] = []
    outcomes: collections.Counter = collections.Counter()
    peak = 0
    with tempfile.NamedTemporaryFile("r") as progress:
        while first < stop:
            command = [sys.executable, __file__, "--seed", str(args.seed), "--part", str(first), str(stop)]
            done = subprocess.run([*command, "--progress", progress.name], capture_output=True, text=True)
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            findings += [line for line in lines if "finding" in line]
            if done.returncode == 0:
                outcomes.update(lines[-1]["outcomes"])
                peak = max(peak, lines[-1]["peak"])
                break
            progress.seek(0)
            last = progress.read()
            if not last:
                raise SystemExit(f"cases {first} to {stop} ended with {done.returncode}: {done.stderr}")
            case = json.loads(last)
            findings.append(
                case | {"finding": f"the process ended with {done.returncode}: {done.stderr[-600:]}"}
            )
            outcomes["crash (cases before it in its process are not counted)"] += 1
            first = case["case"] + 1
    return findings, outcomes, peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--progress", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part or args.only is not None:
        run_cases(args, range(*args.part) if args.part else range(args.only, args.only + 1))
        return
    from concurrent.futures import ThreadPoolExecutor

    # Parts of some thousands: a crash costs the counts of its own part alone.
    starts = range(0, args.cases, 5000)
    with ThreadPoolExecutor(args.processes) as pool:
        parts = pool.map(lambda start: run_part(args, start, min(start + 5000, args.cases)), starts)
        findings, outcomes, peak = [], collections.Counter(), 0
        for number, part in enumerate(parts):
            findings += part[0]
            outcomes.update(part[1])
            peak = max(peak, part[2])
            for finding in part[0]:
                print(json.dumps(finding), flush=True)
            print(f"{min(5000 * (number + 1), args.cases)} cases", file=sys.stderr, flush=True)
    for kind, count in sorted(outcomes.items()):
        print(f"{kind:20} {count:7d}")
    print(f"{args.cases} cases, {len(findings)} findings, at most {peak / 2**20:.0f} MB")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
