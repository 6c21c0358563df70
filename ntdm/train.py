"""Training: `ntdm train`. Caches and shapes in, a run folder out (docs/formats.md).

Every random draw of a step comes from a generator seeded by (seed, step), and a checkpoint is written
after each epoch; so a run that was interrupted goes on from its last epoch and ends, on one machine, with
the weights of a run that was not.
"""

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import ntdm
from ntdm.config.reading import to_dict
from ntdm.config.stages import TrainConfig
from ntdm.data import distributed
from ntdm.data.dataset import SampleDataset
from ntdm.data.loader import Batches
from ntdm.io.cache_split import CacheSplit
from ntdm.io.outputs import atomic_path, sweep, up_to_date
from ntdm.io.progress import say, track
from ntdm.io.run_folder import LAST_CHECKPOINT, SCHEMA, SCHEMA_VERSION, RunFolder, check_focal
from ntdm.methods import load
from ntdm.methods.registry import METHODS
from ntdm.nn.base import Model
from ntdm.training import checkpoints
from ntdm.training.monitor import TrainingMonitor, Validation
from ntdm.training.schedule import learning_rate, make_optimiser

KEPT_BYTES = 2**30  # of decoded samples, that stay in memory from one epoch to the next


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
        config: method, backbone, loss, optimiser.
        cache: cache root.
        shapes: folder written by `ntdm fit-shapes`; read for the method "ntdm" only.
        out: the run folder.
        train_on: splits of the cache, as "pascal3d/train".
        categories: those to learn; None: all of the splits.
        resume: demand that there is something to resume; an interrupted run goes on anyway.
        overwrite: replace a run of another configuration.
        device: "cpu" or "cuda", where the steps are computed; random draws are the CPU's on both.
        name: of the run in tables; the method's by default.
        watch_every: epochs between two sheets (ntdm/training/monitor.py).
        validate: photos that are tried with every sheet.

    Returns:
        `out`, holding config.json, run.json, model.safetensors and train.csv.

    Raises:
        ValueError: missing caches, latents or shapes, an image size the backbone cannot take,
            a run of another config in `out`, a loss that is not finite, several processes for a method that
            trains in one.
    """
    distributed.join(device)
    first, folder = distributed.rank() == 0, RunFolder(out)  # the first process writes
    if first:
        sweep(out)
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite begins it anew: pass one of them")
    method = METHODS[config.method]
    if distributed.size() > 1 and not method.joint:
        raise ValueError(f"{config.method} trains in one process: start it without torchrun")

    split = CacheSplit.open(cache, train_on, categories)
    data = SampleDataset(split, KEPT_BYTES)
    built_on = method.shapes.gather(config, split, shapes)
    description = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "method": name or config.method,
        "train": to_dict(config),
        "train_on": list(train_on),
        "categories": split.categories,
        "image_size": list(data.image_size),
        "nominal_focal": split.nominal_focal,
        "typical_box": split.typical_box,
        "shapes": {c: method.shapes.describe(shape) for c, shape in built_on.items()},
        "data_fingerprint": split.fingerprint,
    }
    if not overwrite and folder.config.exists():
        before = load.read_description(folder)
        if up_to_date(out, before, description, overwrite) and folder.weights.exists():
            say(f"{out}: finished already, with the same config")
            return out
    if resume and not folder.checkpoint.exists():
        raise ValueError(f"--resume: {folder.checkpoint} does not exist; there is nothing to go on from")

    torch.manual_seed(config.seed)
    model = method.build(config, split.categories, built_on).to(device)
    distributed.with_joint_norm(model)
    _check_sizes(config, data, model)
    if validate is not None:
        _check_validation(CacheSplit(validate.paths), description, split.names)

    distributed.barrier()  # every process has checked all: old files may go
    if first:
        if overwrite:
            folder.clear()
        folder.describe(description, split.names)
    distributed.barrier()
    monitor = TrainingMonitor(data, out, watch_every, split.nominal_focal, validate) if first else None
    seconds = _fit(model, data, config, out, device, monitor)
    if monitor is not None:
        monitor.close()
        _write_result(model, data, config, folder, description, seconds, device)
    distributed.barrier()
    return out


def _check_validation(split: CacheSplit, description: dict[str, Any], trained_on: set[str]) -> None:
    """ValueError where the photos to be tried in between cannot be, or are trained on."""
    for header in split.headers:
        if header.category not in description["categories"]:
            raise ValueError(f"--validate-on: {header.path} is of a category that is not trained")
        if list(header.image_size) != description["image_size"]:
            raise ValueError(
                f"--validate-on: {header.path} has images of {header.image_size}, the training's caches of "
                f"{tuple(description['image_size'])} (H, W); prepare both at one size"
            )
        check_focal(header.path, header.nominal_focal, description)
    seen = sorted(split.names & trained_on)
    if seen:
        raise ValueError(f"--validate-on: {len(seen)} samples are trained on, such as {seen[0]}")


def _write_result(
    model: Model, data: SampleDataset, config: TrainConfig, run: RunFolder, description: dict[str, Any],
    seconds: float, device: str,
) -> None:  # fmt: skip
    with atomic_path(run.provenance) as part:
        part.write_text(json.dumps(_provenance(config, description, data, seconds, device), indent=1) + "\n")
    with atomic_path(run.weights) as part:  # last: a run with weights is finished
        state = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
        part.write_bytes(safetensors.torch.save(state))
    shutil.rmtree(run.checkpoint.parent, ignore_errors=True)


def _fit(
    model: Model,
    data: SampleDataset,
    config: TrainConfig,
    out: Path,
    device: str,
    monitor: TrainingMonitor | None,
) -> float:
    """Trains to the end, from the checkpoint where there is one; returns the seconds it took in all."""
    batches = Batches(data, model.categories, model.num_latents, config, device)
    per_epoch, total = batches.per_epoch, batches.per_epoch * config.epochs
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = make_optimiser(config, parameters)
    keys = data.keys()
    history, first = checkpoints.restore(out / LAST_CHECKPOINT, model, optimiser)
    model.train()
    start = time.monotonic() - (history[-1]["seconds"] if history else 0.0)
    sums: dict[str, float] = {}
    count = 0
    for work in track(batches.steps(range(first, total)), f"train {config.method}", total - first):
        step = work.number
        if monitor is not None:
            monitor.seen.update(keys[i][0] for i in work.samples)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step, total)
        loss, figures = model.training_loss(work.batch, work.generator)
        if not math.isfinite(figures["loss"]):
            raise ValueError(
                f"the loss is {figures['loss']} at step {step}: lower learning_rate or set bf16 to false"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        distributed.sum_gradients(parameters)
        optimiser.step()
        sums = {k: sums.get(k, 0.0) + v for k, v in figures.items()}
        count += 1
        if (step + 1) % per_epoch == 0:
            # The first step only fills the textures: where it is a whole epoch, nothing was to be compared.
            if step > 0 and 0 in (sums.get("texels"), sums.get("vertices")):
                raise ValueError(
                    "an epoch used no texel or vertex: no photo shows its mesh, or quad_extent or "
                    "view_temperature leave nothing of it"
                )
            row = {"epoch": (step + 1) // per_epoch, "step": step + 1, "seconds": time.monotonic() - start}
            history.append(row | {k: v / count for k, v in sums.items()})
            sums, count = {}, 0
            if monitor is not None:
                monitor.after(history[-1], config.epochs, model)
                checkpoints.save(out, model, optimiser, history)
    if monitor is not None:
        checkpoints.write_history(out, history)  # a kill may have come between the last checkpoint and it
    return history[-1]["seconds"]


def _check_sizes(config: TrainConfig, data: SampleDataset, model: Model) -> None:
    """ValueError where photos do not fit the backbone, or a batch not the processes."""
    multiple = model.multiple
    if any(side % multiple for side in data.image_size):
        raise ValueError(
            f"the caches have images of {data.image_size}: backbone {config.backbone} wants multiples of "
            f"{multiple}; prepare them again with such an --image-size"
        )
    batch_size = min(config.batch_size, len(data))
    if batch_size < distributed.size():
        raise ValueError(
            f"a batch of {batch_size} samples cannot be shared by {distributed.size()} processes: start fewer"
        )


def _provenance(
    config: TrainConfig, description: dict[str, Any], data: SampleDataset, seconds: float, device: str
) -> dict[str, Any]:
    return {
        "ntdm": ntdm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processes": distributed.size(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seed": config.seed,
        "samples": len(data),
        "seconds": round(seconds, 1),
        "data_fingerprint": description["data_fingerprint"],
    }
