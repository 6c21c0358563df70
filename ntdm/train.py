"""Training: `ntdm train`. Caches and shapes in, a run folder out (docs/formats.md).

Every random draw of a step comes from a generator seeded by (seed, step), and a checkpoint is written
after each epoch; so a run that was interrupted goes on from its last epoch and ends, on one machine, with
the weights of a run that was not.
"""

import csv
import dataclasses
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

import ntdm
from ntdm import cache as caches
from ntdm import parallel
from ntdm.baselines import cuboid
from ntdm.batch import Batch, draw_augmentation, make_batch
from ntdm.camera import PASCAL3D_FOCAL_PX
from ntdm.config import PrepConfig, TrainConfig, from_dict, to_dict
from ntdm.deform import load_shape
from ntdm.method import Model
from ntdm.methods import METHODS
from ntdm.outputs import atomic_path, finished, sweep
from ntdm.progress import say, track
from ntdm.sample_dataset import SampleDataset
from ntdm.watch import Validation, Watch

DESCRIPTION: dict[str, type | tuple[type, ...]] = {  # what a run's config.json holds that is read again
    "method": str, "train": dict, "categories": list, "image_size": list, "nominal_focal": (float, int),
    "typical_box": (float, int), "shapes": dict,
}  # fmt: skip
KEPT_BYTES = 2**30  # of decoded samples, that stay in memory from one epoch to the next
SGD_MOMENTUM = 0.9
CHECKPOINT = Path("checkpoints", "last.safetensors")


def run(
    config: TrainConfig,
    cache: Path,
    shapes: Path,
    out: Path,
    train_on: Sequence[str] = ("pascal3d/train",),
    categories: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    name: str | None = None,
    watch_every: int = 0,
    validate: Validation | None = None,
) -> Path:
    """Train one method and write its run folder; under torchrun, all its processes train it together.

    Args:
        cache: cache root; `train_on` names its splits, as "pascal3d/train".
        shapes: folder written by `ntdm fit-shapes`; read for the method "ntdm" only.
        resume: demand that there is something to resume; an interrupted run goes on anyway.
        device: "cpu" or "cuda", where the steps are computed; random draws are the CPU's on both.
        name: of the run in tables; the method's by default.
        watch_every: epochs between two sheets, with which photos of `validate` are tried; see ntdm/watch.py.

    Returns:
        `out`, holding config.json, run.json, model.safetensors and train.csv.

    Raises:
        ValueError: missing caches, latents or shapes, an image size the backbone cannot take,
            a run of another config in `out`, a loss that is not finite, several processes for a method that
            trains in one.
    """
    parallel.join(device)
    first = parallel.rank() == 0  # the process that writes
    if first:
        sweep(out)
    paths = [p for key in train_on for p in caches.find(cache, key, categories)]
    method = METHODS[config.method]
    if parallel.size() > 1 and not method.joint:
        raise ValueError(f"{config.method} trains in one process: start it without torchrun")
    if method.shapes == "fitted":
        caches.require_latents(paths)
    data = SampleDataset(paths, KEPT_BYTES)
    names = sorted({p.stem for p in paths})
    built_on = _shapes(config, names, paths, shapes)
    focal = _nominal_focal(paths)
    description = {
        "schema": "ntdm-run",
        "schema_version": 1,
        "method": name or config.method,
        "train": to_dict(config),
        "train_on": list(train_on),
        "categories": names,
        "image_size": list(data.image_size),
        "nominal_focal": focal,
        "typical_box": _typical_box(paths),
        "shapes": {c: method.describe(shape) for c, shape in built_on.items()},
        "data_fingerprint": caches.fingerprint(paths),
    }
    described, weights, checkpoint = out / "config.json", out / "model.safetensors", out / CHECKPOINT
    same = (
        not overwrite
        and described.exists()
        and finished(out, read_description(described), description, False)
    )
    if same and weights.exists():
        say(f"{out}: finished already, with the same config")
        return out
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite begins it anew: pass one of them")
    if resume and not checkpoint.exists():
        raise ValueError(f"--resume: {checkpoint} does not exist; there is nothing to go on from")
    torch.manual_seed(config.seed)
    model = method.build(config, names, built_on).to(device)
    parallel.with_joint_norm(model)
    _check_image_size(data.image_size, model)
    batch_size = min(config.batch_size, len(data))
    if batch_size < parallel.size():
        raise ValueError(
            f"a batch of {batch_size} samples cannot be shared by {parallel.size()} processes: start fewer"
        )
    if validate is not None:
        _check_validation(validate, description, sample_names(paths))
    parallel.wait()  # every process has looked at what is there
    if overwrite and first:  # not before all that may be refused has been looked at
        # The checkpoint first: without its config.json nobody would know what it is of.
        for stale in (checkpoint, weights, out / "run.json", out / "train.csv", described):
            stale.unlink(missing_ok=True)
        for folder in ("predictions", "errors", "sheets", "tensorboard"):  # of the model that goes
            shutil.rmtree(out / folder, ignore_errors=True)
    if first:
        with atomic_path(described) as part:
            part.write_text(json.dumps(description, indent=1) + "\n")
        with atomic_path(out / "train_names.txt") as part:
            part.write_text("".join(f"{name}\n" for name in sorted(sample_names(paths))))
    parallel.wait()
    watch = Watch(data, out, watch_every, focal, validate) if first else None
    seconds = _fit(model, data, config, out, device, watch)
    if watch is not None:
        watch.close()
        _write_result(model, data, config, out, description, seconds, device)
    parallel.wait()
    return out


def _check_validation(validate: Validation, description: dict[str, Any], trained_on: set[str]) -> None:
    """ValueError where the photos to be tried in between cannot be, or are trained on."""
    for path in validate.paths:
        with caches.CacheFile(path) as file:
            if file.category not in description["categories"]:
                raise ValueError(f"--validate-on: {path} is of a category that is not trained")
            if list(file.image_size) != description["image_size"]:
                raise ValueError(
                    f"--validate-on: {path} has images of {file.image_size}, the training's caches of "
                    f"{tuple(description['image_size'])} (H, W); prepare both at one size"
                )
    seen = sorted(sample_names(validate.paths) & trained_on)
    if seen:
        raise ValueError(f"--validate-on: {len(seen)} samples are trained on, such as {seen[0]}")


def _write_result(
    model: Model, data: SampleDataset, config: TrainConfig, out: Path, description: dict[str, Any],
    seconds: float, device: str,
) -> None:  # fmt: skip
    with atomic_path(out / "run.json") as part:
        part.write_text(json.dumps(_provenance(config, description, data, seconds, device), indent=1) + "\n")
    with atomic_path(out / "model.safetensors") as part:  # last: a run with weights is finished
        state = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
        part.write_bytes(safetensors.torch.save(state))
    shutil.rmtree((out / CHECKPOINT).parent, ignore_errors=True)


def load(run_folder: Path, device: str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the description in its config.json; ValueError says what is wrong."""
    described, weights = run_folder / "config.json", run_folder / "model.safetensors"
    if not described.exists():
        raise ValueError(
            f"{run_folder} is not a run folder: {described.name} is missing; `ntdm train` writes it"
        )
    description = read_description(described)
    if description.get("schema") == "ntdm-external":
        raise ValueError(f"{run_folder} holds imported predictions and no model; `ntdm report` reads those")
    if not weights.exists():
        raise ValueError(
            f"{weights} is missing: the training did not finish; run the same `ntdm train` again"
        )
    for key, kind in DESCRIPTION.items():
        if not isinstance(description.get(key), kind):
            raise ValueError(f"{described}: {key} is {description.get(key)!r}; train again with --overwrite")
    size = description["image_size"]
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{described}: image_size is {size!r}, want [H, W]; train again with --overwrite")
    if not (description["nominal_focal"] > 0 and description["typical_box"] > 0):
        raise ValueError(f"{described}: nominal_focal or typical_box is not positive; train again")
    try:
        config = from_dict(TrainConfig, description["train"], str(described))
        method = METHODS[config.method]
        shapes = {c: method.restore(s, str(described)) for c, s in description["shapes"].items()}
        config = dataclasses.replace(config, backbone_weights="")
        model = method.build(config, description["categories"], shapes)
        model.load_state_dict(safetensors.torch.load_file(weights))
    except RuntimeError:  # torch's own names every tensor of the model
        raise ValueError(f"{weights} holds another model than {described} describes; train again") from None
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{weights} does not fit {described}: {said}; train again") from None
    broken = [k for k, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ValueError(f"{weights}: tensor {broken[0]} holds values that are not finite; train again")
    return model.requires_grad_(False).eval().to(device), description


def weights_digest(run_folder: Path) -> str:
    """Hexadecimal digest of a run's weights: predictions remember which they were made with."""
    return hashlib.sha256((run_folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def sample_names(paths: Sequence[Path]) -> set[str]:
    """ "category/name" of every sample of the cache files."""
    names = set()
    for path in paths:
        with caches.CacheFile(path) as file:
            names |= {f"{file.category}/{name}" for name in file["name"]}
    return names


def _fit(
    model: Model, data: SampleDataset, config: TrainConfig, out: Path, device: str, watch: Watch | None
) -> float:
    """Trains to the end, from the checkpoint where there is one; returns the seconds it took in all."""
    batch_size = min(config.batch_size, len(data))
    per_epoch = len(data) // batch_size
    total = per_epoch * config.epochs
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = _optimiser(config, trained)
    keys = data.keys()
    history, first = _restore(out / CHECKPOINT, model, optimiser)
    model.train()
    start = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    sums: dict[str, float] = {}
    count = 0
    for step in track(range(first, total), f"train {config.method}", total - first):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        indices = _order(len(data), config.seed, step // per_epoch)[step % per_epoch * batch_size :]
        batch = _own_part(model, data, indices[:batch_size], generator)
        if watch is not None:
            watch.seen.update(keys[i][0] for i in indices[:batch_size])
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, total)
        loss, figures = model.training_loss(batch.to(device), generator)
        if not math.isfinite(figures["loss"]):
            raise ValueError(
                f"the loss is {figures['loss']} at step {step}: lower learning_rate or set bf16 to false"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parallel.sum_gradients(trained)
        optimiser.step()
        sums = {k: sums.get(k, 0.0) + v for k, v in figures.items()}
        count += 1
        if (step + 1) % per_epoch == 0:
            if sums.get("texels") == 0 or sums.get("vertices") == 0:
                raise ValueError(
                    "an epoch used no texel or vertex: no photo shows its mesh, or quad_extent or "
                    "view_temperature leave nothing of it"
                )
            row = {"epoch": (step + 1) // per_epoch, "step": step + 1, "seconds": time.monotonic() - start}
            history.append(row | {k: v / count for k, v in sums.items()})
            sums, count = {}, 0
            if watch is not None:
                watch.after(history[-1], config.epochs, model)
                _save_checkpoint(out, model, optimiser, history)
    return history[-1]["seconds"]


def _own_part(model: Model, data: SampleDataset, indices: Sequence[int], generator: torch.Generator) -> Batch:
    """This process's part of the batch that consists of the samples `indices`."""
    augmentation = draw_augmentation(len(indices), model.config, generator)
    own = parallel.part(len(indices))
    count = own.stop - own.start
    # One more: patches show the next photo.
    needed = [i % len(indices) for i in range(own.start, own.stop + (count < len(indices)))]
    batch = make_batch(
        [data[indices[i]] for i in needed],
        model.categories,
        model.num_latents,
        model.config,
        [augmentation[i] for i in needed],
    )
    return batch.first(count)


def _optimiser(config: TrainConfig, trained: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimiser == "sgd":
        return torch.optim.SGD(trained, config.learning_rate, SGD_MOMENTUM, weight_decay=config.weight_decay)
    return torch.optim.Adam(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of a step of `total`: a linear rise, then a fall to `final_learning_rate` of the highest.

    Of the schedule "steps", a fall to a tenth every `decay_every` epochs.
    """
    if config.schedule == "exponential":
        share = config.final_learning_rate ** (step / total)
    elif config.schedule == "steps":
        share = 0.1 ** (step * config.epochs // total // config.decay_every)
    else:
        wave = (1 + math.cos(math.pi * step / total)) / 2
        share = config.final_learning_rate + (1 - config.final_learning_rate) * wave
    # A short run warms up within its first tenth.
    rise = max(1, min(config.warmup_steps, total // 10))
    return config.learning_rate * share * min(1.0, (step + 1) / rise)


def _order(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 500_009 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def _save_checkpoint(
    out: Path, model: Model, optimiser: torch.optim.Optimizer, history: list[dict[str, Any]]
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # Bytes first: on a full disk a plain write fails with the disk's own error, and nothing else.
    with atomic_path(out / CHECKPOINT) as part:
        part.write_bytes(safetensors.torch.save(tensors, {"history": json.dumps(history)}))
    with atomic_path(out / "train.csv") as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in history for name in row)))
        writer.writeheader()
        writer.writerows(history)


def _restore(
    checkpoint: Path, model: Model, optimiser: torch.optim.Optimizer
) -> tuple[list[dict[str, Any]], int]:
    if not checkpoint.exists():
        return [], 0
    try:
        with safetensors.safe_open(checkpoint, "pt") as file:
            history = json.loads(file.metadata()["history"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        model.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, field = name.split(".")
                state.setdefault(int(number), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"checkpoint {checkpoint} cannot be read ({error}); pass --overwrite to start anew"
        ) from None
    say(f"resuming {checkpoint.parents[1]} after epoch {history[-1]['epoch']}")
    return history, history[-1]["step"]


def _check_image_size(image_size: tuple[int, int], model: Model) -> None:
    multiple = model.multiple
    if any(side % multiple for side in image_size):
        raise ValueError(
            f"the caches have images of {image_size}: backbone {model.config.backbone} wants multiples of "
            f"{multiple}; prepare them again with such an --image-size"
        )


def _shapes(config: TrainConfig, names: Sequence[str], paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """What the method's model is built around, by category."""
    kind = METHODS[config.method].shapes
    if kind == "fitted":
        fitted = {name: load_shape(folder / f"{name}.safetensors") for name in names}
        for path in paths:
            with caches.CacheFile(path) as file:
                held, wanted = file["latent"].shape[1], fitted[path.stem].num_latents
            if held != wanted:
                raise ValueError(
                    f"{path} has latents of {held} entries, {folder} a shape of {wanted}: train with the "
                    "shapes that fit-shapes made from this cache, or run it again"
                )
        return fitted
    if kind != "cads":
        return {}
    cads: dict[str, list[np.ndarray]] = {}
    for path in paths:
        with caches.CacheFile(path) as file:
            found = [vertices for vertices, _ in file.cads().values()]
        cads[path.stem] = cads.get(path.stem) or found  # splits of a category carry the same ones
    lacking = [name for name in names if not cads[name]]
    if lacking:
        raise ValueError(
            f"the caches of {lacking[0]} hold no CAD to build {config.method}'s cuboid around; prepare them "
            "from a dataset with CADs"
        )
    return {name: cuboid.around(cads[name], config.vertices, name) for name in names}


def _nominal_focal(paths: Sequence[Path]) -> float:
    """3000 s: the focal length inference starts from, as it does not know the annotated distance."""
    scales = set()
    for path in paths:
        with caches.CacheFile(path) as file:
            scales.add(from_dict(PrepConfig, file.config, str(path)).resolved_scale)
    if len(scales) > 1:
        raise ValueError(
            f"the caches were prepared at different scales {sorted(scales)}; prepare them at one"
        )
    return PASCAL3D_FOCAL_PX * scales.pop()


def _typical_box(paths: Sequence[Path]) -> float:
    """Median diagonal of the training boxes, crop pixels: `ntdm infer` scales its box to it."""
    diagonals = []
    for path in paths:
        with caches.CacheFile(path) as file:
            box = file["bbox"]
        diagonals += np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]).tolist()
    return float(np.median(diagonals))


def _provenance(
    config: TrainConfig, description: dict[str, Any], data: SampleDataset, seconds: float, device: str
) -> dict[str, Any]:
    return {
        "ntdm": ntdm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processes": parallel.size(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seed": config.seed,
        "samples": len(data),
        "seconds": round(seconds, 1),
        "data_fingerprint": description["data_fingerprint"],
    }


def read_description(path: Path) -> dict[str, Any]:
    """The object in a run's config.json; ValueError where it holds none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): restore it, or train again with --overwrite"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}, want an object: restore it, or train with --overwrite"
        )
    return content
