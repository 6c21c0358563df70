"""From lists of photos to cache files: the part that all readers share.

A reader says which photos belong in which file (listing.py); this file has the samples made, in
parallel and in order, writes each cache file when it is whole, and counts what was left out and why.
"""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ntdm.config.reading import to_dict
from ntdm.config.stages import PrepConfig
from ntdm.data_prep.listing import Item, Listing
from ntdm.data_prep.raw.annotation import SampleError
from ntdm.data_prep.samples import MOST_OBJECTS, make_samples
from ntdm.data_prep.workers import process_pool
from ntdm.io.cache import CacheFile, CacheWriter, Sample
from ntdm.io.outputs import sweep, up_to_date
from ntdm.io.progress import say, track

# What is wrong with the dataset on disk, as against what the protocol leaves out: named one by one, and
# fatal under `strict`.
FAULTS = frozenset(
    {
        "image_missing", "image_unreadable", "annotation_missing", "annotation_unreadable",
        "cad_missing", "cad_unreadable", "mask_missing", "mask_unreadable", "name_invalid",
        "crop_mismatch", "image_size_mismatch", "number_absurd", "list_unreadable",
    }
)  # fmt: skip
_FAULTS_NAMED = 5  # of each file; the rest is in the count
_CHUNK = 8  # photos a task: a task costs about a millisecond, a photo about ten
_TASK_BYTES = 64 * 2**20  # of samples that a task of several photos may have


@dataclass(frozen=True)
class PreparedFile:
    """One line of the report. `path` is None where no sample was left and no file was written."""

    key: str
    path: Path | None
    samples: int
    dropped: dict[str, int]
    kept: bool  # made earlier with the same config


@dataclass(frozen=True)
class PrepReport:
    """What a prepare call made."""

    files: tuple[PreparedFile, ...]

    @property
    def paths(self) -> list[Path]:
        """The cache files that are there now."""
        return [file.path for file in self.files if file.path is not None]

    def table(self) -> str:
        """A line for each file: samples, and the dropped ones by reason."""
        width = max([4, *(len(file.key) for file in self.files)])
        lines = [f"{'file':{width}}  samples  dropped"]
        for file in self.files:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(file.dropped.items()))
            why = "it was not read" if "list_unreadable" in file.dropped else "no sample is left"
            note = "" if file.path else f"  (no file: {why})"
            note += "  (was there already)" if file.kept else ""
            lines.append(f"{file.key:{width}}  {file.samples:7d}  {reasons or '-'}{note}")
        return "\n".join(lines)


def write_caches(
    listings: Sequence[Listing],
    cache_dir: Path,
    config: PrepConfig,
    *,
    workers: int = 1,
    strict: bool = False,
    overwrite: bool = False,
    unread: Mapping[str, str] | None = None,
) -> PrepReport:
    """Write the cache file of each listing to `<cache_dir>/<dataset>/<split>/<category>.h5`.

    A file made earlier with the same config is kept. A listing none of whose samples can be used gives no
    file, and a line of the report that says so. Any number of `workers` gives the same data. `unread` has the
    lists that cannot be read, as key -> what is wrong: they give no file either, nor touch one made earlier.

    Raises:
        ValueError: a file is there, made with another config; a fault of the dataset, under `strict`;
            no listing has a sample.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: want 1 or more")
    unread = unread or {}
    for key, text in unread.items():
        if strict or not listings:
            raise ValueError(f"{key}: {text}")
        say(f"{key}: list_unreadable: {text}")
    sweep(cache_dir)
    files = [
        _kept(cache_dir / f"{listing.key}.h5", listing, config, strict, overwrite) for listing in listings
    ]
    todo = [listing for listing, kept in zip(listings, files, strict=True) if kept is None]
    made = iter(_make(todo, cache_dir, config, workers, strict))
    lost = [PreparedFile(key, None, 0, {"list_unreadable": 1}, kept=False) for key in unread]
    report = PrepReport((*(kept or next(made) for kept in files), *lost))
    if not report.paths:
        raise ValueError(f"no sample could be used, nothing is written:\n{report.table()}")
    return report


def _make(
    listings: list[Listing], cache_dir: Path, config: PrepConfig, workers: int, strict: bool
) -> list[PreparedFile]:
    files = []
    with contextlib.ExitStack() as stack:
        pool = None
        if workers > 1 and sum(len(listing.items) for listing in listings) > _CHUNK:
            listings_alone = [replace(listing, items=[]) for listing in listings]
            pool = stack.enter_context(process_pool(workers, _start_worker, (listings_alone, config)))
        for number, listing in enumerate(listings):
            _say_faults(listing, strict)
            results = _in_order(pool, number, listing, config, workers)
            files.append(_write(cache_dir / f"{listing.key}.h5", listing, config, results, strict))
    return files


def _write(
    path: Path,
    listing: Listing,
    config: PrepConfig,
    results: Iterator[list[Sample | SampleError]],
    strict: bool,
) -> PreparedFile:
    dropped, named = collections.Counter(listing.dropped), 0
    writer: CacheWriter | None = None
    with contextlib.ExitStack() as stack:
        for result in track(results, f"prep {listing.key}", total=len(listing.items)):
            for made in result:
                if isinstance(made, Sample):
                    writer = writer or stack.enter_context(_writer(path, listing, config))
                    writer.add(made)
                    continue
                dropped[made.reason] += 1
                if made.reason in FAULTS:
                    if strict:
                        raise ValueError(f"{listing.key}: {made.text}")
                    named += 1
                    if named <= _FAULTS_NAMED:
                        say(f"{listing.key}: {made.reason}: {made.text}")
        if writer is not None:
            writer.dropped = dict(dropped)
    if named > _FAULTS_NAMED:
        say(f"{listing.key}: and {named - _FAULTS_NAMED} more such faults, counted in the table")
    if writer is None:
        say(f"{listing.key}: no sample is left of {len(listing.items)} listed; no file is written")
        # What an earlier run left under this name is not what the dataset says now.
        path.unlink(missing_ok=True)
        return PreparedFile(listing.key, None, 0, dict(dropped), kept=False)
    return PreparedFile(listing.key, path, writer.count, dict(dropped), kept=False)


def _writer(path: Path, listing: Listing, config: PrepConfig) -> CacheWriter:
    return CacheWriter(
        path,
        dataset=listing.dataset,
        split=listing.split,
        category=listing.category,
        image_size=config.image_size,
        config=to_dict(config),
        inputs=listing.fingerprint(),
        cads=listing.cads.models,
        optional=listing.optional,
        compression=config.compression,
    )


def _kept(
    path: Path, listing: Listing, config: PrepConfig, strict: bool, overwrite: bool
) -> PreparedFile | None:
    if overwrite or not path.exists():
        return None
    with CacheFile(path) as file:
        made_with, wanted = (
            file.config | {"inputs": file.inputs},
            to_dict(config) | {"inputs": listing.fingerprint()},
        )
        up_to_date(path, made_with, wanted, overwrite)
        faults = ", ".join(f"{reason} {n}" for reason, n in file.dropped.items() if reason in FAULTS)
        if strict and faults:
            raise ValueError(
                f"{path} was made without some samples ({faults}): mend them, and pass --overwrite"
            )
        return PreparedFile(listing.key, path, len(file), file.dropped, kept=True)


def _say_faults(listing: Listing, strict: bool) -> None:
    """Name what is wrong before any sample is made; ValueError with the first fault under `strict`."""
    faults = [f"{text}; samples of this model are left out" for text in listing.cads.broken.values()]
    faults += [f"{listing.cads.missing}; its samples are left out"] if listing.cads.missing else []
    faults += [
        f"{reason} for {count} names of the list"
        for reason, count in listing.dropped.items()
        if reason in FAULTS
    ]
    for text in faults:
        if strict:
            raise ValueError(f"{listing.key}: {text}")
        say(f"{listing.key}: {text}")


_worker_listings: list[Listing] = []
_worker_config: PrepConfig | None = None


def _start_worker(listings: list[Listing], config: PrepConfig) -> None:
    global _worker_config
    _worker_listings[:] = listings
    _worker_config = config


def _work(number: int, items: list[Item]) -> list[list[Sample | SampleError]]:
    assert _worker_config is not None
    return [make_samples(_worker_listings[number], item, _worker_config) for item in items]


def photos_per_task(config: PrepConfig) -> int:
    """How many photos a task has: few enough for its samples to fit in memory, however many the objects."""
    height, width = config.image_size
    largest = height * width * 7 * (MOST_OBJECTS if config.objects == "all" else 1)  # RGB and four masks
    return max(1, min(_CHUNK, _TASK_BYTES // largest))


def _in_order(
    pool: ProcessPoolExecutor | None,
    number: int,
    listing: Listing,
    config: PrepConfig,
    workers: int,
) -> Iterator[list[Sample | SampleError]]:
    """The samples of each photo of a listing, in the listing's order; of a few tasks a worker in memory."""
    if pool is None:
        yield from (make_samples(listing, item, config) for item in listing.items)
        return
    size = photos_per_task(config)
    ahead = workers * (4 if size > 1 else 2)
    chunks = (listing.items[i : i + size] for i in range(0, len(listing.items), size))
    waiting: collections.deque[Future[list[list[Sample | SampleError]]]] = collections.deque()
    for chunk in chunks:
        waiting.append(pool.submit(_work, number, chunk))
        if len(waiting) >= ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()
