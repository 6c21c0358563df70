"""Checkpoints of a training: what a run that was interrupted goes on from, bit for bit on one machine."""

import csv
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from ntdm.io.outputs import atomic_path
from ntdm.io.progress import say
from ntdm.io.run_folder import LAST_CHECKPOINT, RunFolder
from ntdm.nn.base import Model


def save(out: Path, model: Model, optimiser: torch.optim.Optimizer, history: list[dict[str, Any]]) -> None:
    """Replaces the checkpoint of the run folder `out`, then its train.csv; `history` has a row an epoch."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    # Bytes first: on a full disk a plain write fails with the disk's own error, and nothing else.
    with atomic_path(out / LAST_CHECKPOINT) as part:
        part.write_bytes(safetensors.torch.save(tensors, {"history": json.dumps(history)}))
    write_history(out, history)


def write_history(out: Path, history: list[dict[str, Any]]) -> None:
    """train.csv of the run folder `out`."""
    with atomic_path(RunFolder(out).history) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in history for name in row)))
        writer.writeheader()
        writer.writerows(history)


def restore(
    checkpoint: Path, model: Model, optimiser: torch.optim.Optimizer
) -> tuple[list[dict[str, Any]], int]:
    """Puts model and optimiser back to the end of the checkpoint's last epoch, where there is a checkpoint.

    Returns:
        The rows of train.csv so far and the number of the next step.

    Raises:
        ValueError: the checkpoint is damaged, or another model's.
    """
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
