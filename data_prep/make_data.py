"""Synthetic PASCAL3D+, Occluded PASCAL3D+ and OOD-CV (packaging B), in the raw formats of the originals.

Layout under OUT: PASCAL3D+_release1.1/, OccludedPASCAL3D/, OOD-CV/, and make-data.json, which holds the
config and whether the set is whole. The same seed gives the same bytes on any number of workers, and a larger
set begins with the samples of a smaller one.

What the nuisances show and training does not (data_prep/synthetic):

    shape     CADs that training holds back, and stretched copies of them         models.py
    pose      elevations and thetas outside training's                            viewpoints.py
    texture   families of texture.UNSEEN on the object                            texture.py
    context   the same families, and unseen outlines, in the background           scene.py
    weather   fog, rain, snow or night over the photo                             scene.py

Textures, backgrounds and lights of all test splits are disjoint from training's, cell by cell of the ranges
they are drawn from, and as hard (draws.py); beyond that a nuisance differs in its shift alone. Its
truth is the annotation: the camera is exact, and `cad_index` names the very shape in the photo, stretched
copies too. OOD-CV/shifts.csv says for each photo what was done.
As in the originals, OOD-CV has neither bottles nor monitors.
"""

import csv
import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ntdm.config.protocol import NUISANCES, OOD_CV_CATEGORIES
from ntdm.config.reading import to_dict
from ntdm.config.stages import SyntheticConfig
from ntdm.data_prep.raw import roots
from ntdm.data_prep.raw.roots import check_root, choose_categories
from ntdm.data_prep.synthetic import models as synthetic_models
from ntdm.data_prep.synthetic import scene
from ntdm.data_prep.synthetic import viewpoints as synthetic_viewpoints
from ntdm.data_prep.synthetic.photo import OCCLUDED, OOD_CV, PASCAL3D, SPLITS, Sample, make, shown, subtype
from ntdm.data_prep.synthetic.raw_files import mat_bytes, off_text, write_bytes
from ntdm.data_prep.workers import process_pool
from ntdm.io.outputs import sweep, up_to_date
from ntdm.io.progress import track

MARKER = "make-data.json"
CHUNK = 4  # samples a worker takes at a time


def make_data(
    config: SyntheticConfig,
    out: Path,
    *,
    cad_root: Path | None = None,
    viewpoints: Path | None = None,
    workers: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes the three synthetic datasets; resumes an interrupted run, skips a finished one.

    Args:
        config: what to make.
        out: the folder that will hold the three trees.
        cad_root: a PASCAL3D+ tree whose CADs the photos show (synthetic_models.models); None: built-in ones.
        viewpoints: folder of viewpoint lists (synthetic_viewpoints); None: the prior.
        workers: processes; 0 takes one for each CPU, 1 works in this process.
        overwrite: replace what an earlier run, finished or not, left in `out`.

    Returns:
        `out`.

    Raises:
        ValueError: a category has no models or no listed viewpoints; a CAD or a list is damaged; `out` holds
            datasets that make-data did not write, or ones of another config, other CADs or other lists.
    """
    out = Path(out)
    made_from = to_dict(config) | _sources(config, cad_root, viewpoints)
    if _started(made_from, out, overwrite):
        return out
    samples = list(_samples(config, out, cad_root, viewpoints))
    _write_marker(made_from, out, complete=False)
    _write_cads(config, out, cad_root)
    for _ in track(_made(samples, workers or os.cpu_count() or 1), "make-data", total=len(samples)):
        pass
    _write_lists(samples, out)
    _write_marker(made_from, out, complete=True)
    return out


def _sources(config: SyntheticConfig, cad_root: Path | None, viewpoints: Path | None) -> dict[str, str]:
    """What the photos are made from besides the config, as digests; raises before anything is written."""
    choose_categories(config.categories)
    if cad_root is not None:
        check_root(cad_root, roots.PASCAL3D, "CAD/*/[0-9][0-9].off", "CAD/*.mat")
    for category in config.categories:
        synthetic_models.models(category, cad_root)
    digests = {}
    if cad_root is not None:
        digests["cads"] = synthetic_models.fingerprint(cad_root, config.categories)
    if viewpoints is not None:
        digests["viewpoints"] = synthetic_viewpoints.fingerprint(viewpoints)
        for category in config.categories:
            for name in synthetic_viewpoints.LISTS:
                synthetic_viewpoints.listed_viewpoints(viewpoints, name, category)
    return digests


def _samples(
    config: SyntheticConfig, out: Path, cad_root: Path | None = None, viewpoints: Path | None = None
) -> Iterator[Sample]:
    counts = dict.fromkeys(NUISANCES, config.ood_per_category)
    counts["train"], counts["val"] = config.train_per_category, config.val_per_category
    counts["iid"] = config.iid_per_category
    for split in SPLITS:
        for category in shown(split, config.categories):
            for index in range(counts[split]):
                yield Sample(config, out, split, category, index, cad_root, viewpoints)


def _made(samples: Sequence[Sample], workers: int) -> Iterator[None]:
    """Makes the samples, yielding once for each."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # operations this small only lose by being shared out
        try:
            yield from map(make, samples)
        finally:
            torch.set_num_threads(threads)
        return
    with process_pool(workers) as pool:
        yield from pool.map(make, samples, chunksize=CHUNK)


def _started(made_from: dict[str, Any], out: Path, overwrite: bool) -> bool:
    """Whether `out` is finished; clears it for `overwrite`, and what a killed run left half-written."""
    trees = [out / name for name in (PASCAL3D, OCCLUDED, OOD_CV)]
    marker = out / MARKER
    if not marker.exists():
        for tree in trees:
            if tree.exists():
                raise ValueError(f"{tree} was not written by make-data (no {marker}): choose another folder")
        return False
    try:
        state = json.loads(marker.read_text(encoding="utf-8"))
        made_with, complete, there = dict(state["config"]), state["complete"], set(state.get("trees", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{marker} is not a make-data marker ({error}): choose another folder") from None
    if not up_to_date(marker, made_with, made_from, overwrite):
        _write_marker(made_from, out, complete=False)  # first, lest a kill leave half a set that says whole
        for tree in trees:
            if tree.is_symlink():
                raise ValueError(f"{tree} is a link: remove it, then make the data again")
            if tree.exists():
                shutil.rmtree(tree)
        return False
    if complete and all((out / name).is_dir() for name in there):
        return True
    for tree in trees:
        sweep(tree)
    return False


def _write_cads(config: SyntheticConfig, out: Path, cad_root: Path | None) -> None:
    for category in config.categories:
        cads = synthetic_models.models(category, cad_root).cads
        folder = out / PASCAL3D / "CAD"
        for number, cad in cads.items():
            write_bytes(folder / category / f"{number:02d}.off", off_text(cad).encode())
        # The struct array counts its models from 1: a gap in the numbers is an empty element.
        whole = [cads.get(number) for number in range(1, max(cads) + 1)]
        write_bytes(folder / f"{category}.mat", mat_bytes(category, whole))


def _write_lists(samples: Sequence[Sample], out: Path) -> None:
    """Image sets, occlusion lists, OOD-CV's lists and shifts, from the samples that are there."""
    sets, ood_cv, occluded = out / PASCAL3D / "Image_sets", out / OOD_CV / "lists", out / OCCLUDED / "lists"
    lists: defaultdict[Path, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split in ("train", "val"):
            lists[sets / f"{sample.category}_imagenet_{sample.split}.txt"].append(sample.name)
        else:
            lists[ood_cv / f"{sample.category}_all.txt"].append(f"{sample.name} 0")
        if sample.split == "train" and sample.category in OOD_CV_CATEGORIES:
            lists[ood_cv / "TrainSet.txt"].append(sample.name)
        if sample.split in NUISANCES:
            lists[ood_cv / f"{sample.category}_{sample.split}.txt"].append(f"{sample.name} 0")
        if sample.split == "val":
            for level in scene.FOREGROUND:
                if sample.occluded(level, "annotations").exists():
                    lists[occluded / f"{sample.category}FGL{level}_BGL{level}.txt"].append(
                        f"{sample.name}.JPEG"
                    )
    for category, models in {sample.category: sample.models for sample in samples}.items():
        lists[sets / f"{category}_imagenet_subtype.txt"] = [
            subtype(category, number) for number in models.cads
        ]
    for path, lines in lists.items():
        write_bytes(path, ("\n".join(lines) + "\n").encode())
    shifted = [sample for sample in samples if sample.split in NUISANCES]
    if shifted:
        write_bytes(out / OOD_CV / "shifts.csv", _shifts(shifted).encode())


def _shifts(samples: Sequence[Sample]) -> str:
    """A CSV of what was done to each nuisance photo."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["category", "name", "nuisance", "shift"])
    table.writerows((sample.category, sample.name, sample.split, sample.shift) for sample in samples)
    return text.getvalue()


def _write_marker(made_from: dict[str, Any], out: Path, complete: bool) -> None:
    trees = [name for name in (PASCAL3D, OCCLUDED, OOD_CV) if (out / name).exists()]
    state = {"config": made_from, "complete": complete, "trees": trees}
    write_bytes(out / MARKER, (json.dumps(state, indent=2) + "\n").encode())
