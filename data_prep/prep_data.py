"""`ntdm prep-data`: a reader says what a dataset holds; cache files are written of it (docs/formats.md)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ntdm.config.stages import PrepConfig
from ntdm.data_prep.listing import DatasetListing
from ntdm.data_prep.readers import nemo_prepared, occluded_pascal3d, pascal3d
from ntdm.data_prep.readers.ood_cv import packagings
from ntdm.data_prep.write_caches import FAULTS, PreparedFile, PrepReport, write_caches
from ntdm.io.progress import say

READERS: dict[str, Callable[..., DatasetListing]] = {
    "pascal3d": pascal3d.read,
    "occluded-pascal3d": occluded_pascal3d.read,
    "ood-cv": packagings.read,
    "nemo-prepared": nemo_prepared.read,
}


def run(
    dataset: str,
    root: Path,
    cache_dir: Path,
    config: PrepConfig,
    *,
    pascal3d: Path | None = None,
    categories: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    strict: bool = False,
    overwrite: bool = False,
) -> PrepReport:
    """Write `<cache_dir>/<dataset>/<split>/<category>.h5` from the dataset at `root`.

    Args:
        dataset: a key of READERS.
        root: where the dataset lies.
        cache_dir: where the cache files go.
        config: of the crops. By default one sample an image: its first object, if that has a pose.
        pascal3d: root of PASCAL3D+, where poses and CADs come from for datasets that ship none.
        categories: by default those that the dataset has.
        splits: by default the reader's.
        workers: processes; the files do not depend on their number.
        strict: fail at the first fault of the dataset.
        overwrite: replace files that were made with another config.

    Returns:
        A line a file; names that belong to no category, so to no file, have a line to themselves.

    Raises:
        ValueError: what the reader refuses, or :func:`ntdm.data_prep.write_caches.write_caches`.
    """
    places = {} if dataset == "pascal3d" else {"pascal3d": pascal3d}
    listed = READERS[dataset](root, categories=categories, splits=splits, **places)
    for (split, reason), names in listed.unclaimed.items():
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        key = f"{dataset.replace('-', '_')}/{split}"
        text = f"{key}: {reason}: {len(names)} listed names that no category has: {some}"
        if strict and reason in FAULTS:
            raise ValueError(text)
        say(text)
    report = write_caches(
        listed.listings, cache_dir, config, workers=workers, strict=strict, overwrite=overwrite,
        unread=listed.unread,
    )  # fmt: skip
    return PrepReport((*report.files, *_unclaimed_lines(dataset.replace("-", "_"), listed.unclaimed)))


def _unclaimed_lines(dataset: str, unclaimed: Mapping[tuple[str, str], Sequence[str]]) -> list[PreparedFile]:
    """The report's lines of names that belong to no category."""
    dropped: dict[str, Counter[str]] = {}
    for (split, reason), names in unclaimed.items():
        dropped.setdefault(split, Counter())[reason] = len(names)
    return [
        PreparedFile(f"{dataset}/{split}/(no category)", None, 0, dict(counts), kept=False)
        for split, counts in dropped.items()
    ]
