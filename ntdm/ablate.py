"""Ablations: `ntdm ablate`. The runs of Table 3 of arXiv 2306.00118 and one of ours, one change each.

    full            nothing
    no-background   cells that look like background do not enter the loss (Eq. 10 without its second sum)
    single-alpha    one view bin: the texture does not depend on the direction it is seen from
    fixed-shape     the shape stays what it starts as, the mean of the CADs' latents
    latent-random   inference starts from a random mixture of the CADs' latents
    latent-average  inference starts from their mean
    hard-silhouette a cell is of the object or not, nothing between (not in the paper's table)

What changes inference alone shares the weights of `full`: its folder is a run folder with a link to them.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ntdm import evaluate, train
from ntdm.config.reading import difference, to_dict
from ntdm.config.stages import InferConfig, TrainConfig
from ntdm.io.cache_split import CacheSplit
from ntdm.io.outputs import atomic_path, up_to_date
from ntdm.io.progress import say
from ntdm.io.run_folder import RunFolder
from ntdm.methods import load
from ntdm.methods.base import FITTED_SHAPES


@dataclass(frozen=True)
class Ablation:
    """What a run changes: keys of TrainConfig and of InferConfig."""

    train: Mapping[str, Any] = field(default_factory=dict)
    infer: Mapping[str, Any] = field(default_factory=dict)


ABLATIONS = {  # in the order of Table 3, then ours
    "full": Ablation(),
    "no-background": Ablation(infer={"background_term": False}),
    "single-alpha": Ablation(train={"view_bins": 1}),
    "fixed-shape": Ablation(infer={"refine_shape": False, "latent_start": "average"}),
    "latent-random": Ablation(infer={"latent_start": "random"}),
    "latent-average": Ablation(infer={"latent_start": "average"}),
    "hard-silhouette": Ablation(infer={"silhouette": "hard"}),
}


def run(
    training: TrainConfig,
    inference: InferConfig,
    cache: Path,
    shapes: Path,
    out: Path,
    splits: Sequence[str] = ("pascal3d/val",),
    train_on: Sequence[str] = ("pascal3d/train",),
    categories: Sequence[str] | None = None,
    full: Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Train what must be trained and evaluate every ablation; what is finished is kept.

    Args:
        training: the configuration of `full`; ablations change keys of it.
        inference: the same of inference.
        cache: as for train.run.
        shapes: as for train.run.
        out: folder of the run folders.
        splits: as for evaluate.run.
        train_on: as for train.run.
        categories: as for train.run.
        full: a finished run of this very configuration and data, whose weights are taken; None: train it.
        overwrite: replace runs of another configuration.
        device: as for train.run.

    Returns:
        the run folders, `out`/<ablation>, in the order of Table 3; each has its ablation's name in tables.

    Raises:
        ValueError: a method other than "ntdm", a `full` of another configuration or other data, and what
            train.run and evaluate.run refuse.
    """
    if training.method != "ntdm":
        raise ValueError(f"ablations are of the method ntdm, not of {training.method!r}")
    # Before hours of training, not after.
    evaluate.check_config(inference)
    trained_on, evaluated_on = CacheSplit.open(cache, train_on, categories), CacheSplit.open(cache, splits)
    _ = CacheSplit([*trained_on.paths, *evaluated_on.paths]).nominal_focal  # ValueError where they have two
    if full is not None:
        _check_full(full, training, train_on, trained_on, shapes)
    # What has weights already comes before what is trained for itself.
    for name, ablation in sorted(ABLATIONS.items(), key=lambda item: bool(item[1].train)):
        folder = out / name
        if name == "full" and full is not None:
            _share(full, folder, name, overwrite)
        elif ablation.train or name == "full":
            say(f"ablation {name}: train")
            train.run(
                replace(training, **ablation.train), cache, shapes, folder, train_on, categories,
                overwrite=overwrite, device=device, name=name,
            )  # fmt: skip
        else:
            _share(out / "full", folder, name, overwrite)
        say(f"ablation {name}: evaluate")
        ablated = replace(inference, **ablation.infer)
        evaluate.run(folder, cache, splits, ablated, overwrite=overwrite, device=device)
    return [out / name for name in ABLATIONS]


def _check_full(
    full: Path, training: TrainConfig, train_on: Sequence[str], split: CacheSplit, shapes: Path
) -> None:
    _, described = load.load(full)
    expected = {
        "train": to_dict(training),
        "train_on": list(train_on),
        "data_fingerprint": split.fingerprint,
        "shapes": {
            name: FITTED_SHAPES.describe(shape)
            for name, shape in FITTED_SHAPES.gather(training, split, shapes).items()
        },
    }
    differing = difference({key: described.get(key) for key in expected}, expected)
    if differing:
        raise ValueError(
            f"{full} was made with another config or on other data ({differing}): it is not full"
        )


def _share(full: Path, folder: Path, name: str, overwrite: bool) -> None:
    """Make `folder` a run of the name `name` with the weights of the run `full`."""
    source, target = RunFolder(full), RunFolder(folder)
    described = load.read_description(source) | {"method": name}
    if target.config.exists() and target.weights.exists():
        same_weights = target.weights_digest() == source.weights_digest()
        if same_weights and up_to_date(folder, load.read_description(target), described, overwrite):
            return
        if not overwrite:
            raise ValueError(f"{folder} has other weights than {full}; pass --overwrite to replace it")
    target.config.unlink(missing_ok=True)  # and written last, so that a folder cut short is made anew
    target.clear_results()
    for item in (source.provenance, source.history, source.train_names, source.weights):
        with atomic_path(folder / item.name) as part:
            _link(item, part)
    target.describe(described)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no such names.

    A link is safe: outputs are replaced, never written into.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
