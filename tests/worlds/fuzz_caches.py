"""Damages cache files and has every command that reads one read it.

    python tests/worlds/fuzz_caches.py --cases 2000
    python tests/worlds/fuzz_caches.py --only 17

A case flips, cuts, splices or replaces bytes of a cache file, or deletes or replaces one of its attributes
or datasets. Then it is opened as fit-shapes, train, evaluate, inspect and export do: header, names, cameras,
CADs, every sample, and the command's own first steps. What may come out is what the file says, or one
ValueError or OSError with a sentence; not another error, a crash, 5 seconds of computing, or 1 GB of memory
beyond the start. Each case runs in a process of its own, forked: the HDF5 library keeps state after a bad
file.
"""

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

import tiny_world as tiny
from fuzz_damage import _bytes as damage
from ntdm import export, fit_shapes, inspect_cache
from ntdm.data import dataset
from ntdm.io import cache
from ntdm.io.cache_split import CacheSplit

SECONDS, BYTES = 5, 2**30
VALUES = (
    np.nan, np.inf, -1, 0, 10**6, 2**40, "", "text", "../../x", b"\xff", [1, 2], [[1.0]], [], "{}", "[1]",
    '{"a": NaN}', [0, 0], [-1, 5], [10**6, 10**6], h5py.Empty("f"),
)  # fmt: skip


def damage_structure(rng: np.random.Generator, path: Path) -> str:
    """Delete or replace an attribute or a dataset, or values in one."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        what, value = (
            rng.choice(["attribute", "attribute", "dataset", "values", "link"]),
            VALUES[rng.integers(len(VALUES))],
        )
        name = str(rng.choice(sorted(file.attrs) if what == "attribute" else names))
        if what == "attribute":
            del file.attrs[name]
            if rng.random() < 0.7:
                file.attrs[name] = value
        elif what == "values" and isinstance(file[name], h5py.Dataset) and file[name].dtype.kind in "iuf":
            array = file[name][:]
            if array.size:
                drawn = rng.choice([np.nan, -1, 0, 1e30, 32000, 1e-9])
                with np.errstate(invalid="ignore", over="ignore"):
                    array.reshape(-1)[rng.integers(array.size)] = np.array(drawn).astype(array.dtype)
                file[name][:] = array
        else:
            del file[name]
            if what == "link":
                file[name] = (
                    h5py.SoftLink("/name") if rng.integers(2) else h5py.ExternalLink("/etc/passwd", "x")
                )
            elif rng.random() < 0.6:
                shape = tuple(int(n) for n in rng.choice([0, 1, 2, 4, 2**40], rng.integers(0, 4)))
                kind = rng.choice(["u1", "f8", "i2", "f4"])
                file.create_dataset(name, shape, kind, chunks=True if shape and 0 not in shape else None)
        return f"{what} {name} {value!r}"


def read(path: Path, out: Path) -> None:
    """What the commands do with a cache file before they compute."""
    with cache.CacheFile(path) as file:
        for name in ("name", "source", "viewpoint", "focal", "principal_point", "bbox", "cad_index"):
            file[name]
        file.cads()
    data = dataset.SampleDataset([path])
    for index in range(len(data)):
        data[index]
    inspect_cache.run([path], out / "inspected", lambda *given: given[-1].touch())
    split = CacheSplit([path])
    for attribute in ("fingerprint", "nominal_focal", "typical_box", "names"):
        getattr(split, attribute)
    fit_shapes.collect_cads([path])
    fit_shapes.write_sample_latents([path], [0, 1], np.eye(2, dtype=np.float32))
    CacheSplit([path]).require_latents()
    list(export.records([path], None, masks=True))


def case(index: int, seed: int, sound: Path, folder: Path) -> tuple[str, str | None, str]:
    """Outcome, finding and damage of one case, run in this process."""
    rng = np.random.default_rng([seed, index])
    path = folder / "pascal3d" / "val" / "car.h5"
    path.parent.mkdir(parents=True)
    shutil.copyfile(sound, path)
    if rng.random() < 0.5:
        done = damage_structure(rng, path)
    else:
        data, done = damage(rng, path.read_bytes(), [sound])
        path.write_bytes(data)
    try:
        read(path, folder)
    except (ValueError, OSError) as error:
        chain, cause = [], error
        while cause is not None:
            chain.append(cause)
            cause = cause.__context__
        if any(isinstance(cause, MemoryError) for cause in chain):
            return "refused", f"MemoryError behind {error}", done
        if "car.h5" not in str(error) or "\n" in str(error):
            return "refused", f"no sentence: {error!r}", done
        return "refused", None, f"{done}: {error}"
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}", done
    return "read", None, done


def forked(run: Callable[[], tuple[str, str | None, str]]) -> tuple[str, str | None, str]:
    """What `run` returns, or the signal that ended it."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
        signal.alarm(60)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(send, "w") as pipe:
            json.dump(run(), pipe)
            pipe.flush()
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not said:
        return "crash", f"the process ended with signal {os.WTERMSIG(status)}", ""
    outcome, finding, done = json.loads(said)
    return outcome, finding, done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork: the child would wait for it
    folder = Path(tempfile.mkdtemp(prefix="fuzz-caches-"))
    findings, outcomes = 0, collections.Counter()
    try:
        tiny.write_cache(folder / "sound", "pascal3d/val", categories=("car",), count=3)
        sound = folder / "sound" / "pascal3d" / "val" / "car.h5"
        read(sound, folder / "first")  # whatever is loaded late is loaded before the forks
        for index in [args.only] if args.only is not None else range(args.cases):
            outcome, finding, done = forked(lambda i=index: case(i, args.seed, sound, folder / "case"))
            shutil.rmtree(folder / "case")
            outcomes[outcome] += 1
            findings += finding is not None
            if finding or args.only is not None:
                print(json.dumps({"case": index, "finding": finding, "damage": done}), flush=True)
    finally:
        shutil.rmtree(folder)
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome:8} {count:6d}")
    print(f"{sum(outcomes.values())} cases, {findings} findings")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
