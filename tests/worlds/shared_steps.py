"""A few training steps in float64, alone or as one of torchrun's processes, and what they leave.

    python shared_steps.py FOLDER METHOD OUT

FOLDER holds the tiny world's cache/ and shapes/. OUT_<rank>.safetensors gets the first step's gradients, the
model's state after every step, and the numbers of the photos that each step used.
"""

import sys
from pathlib import Path

import safetensors.torch
import torch

import tiny_world
from ntdm.data import distributed
from ntdm.data.batch import Batch
from ntdm.data.dataset import SampleDataset
from ntdm.data.loader import Batches
from ntdm.io.cache_split import CacheSplit
from ntdm.methods.registry import METHODS

STEPS = 4
# Five photos: two processes have parts of unequal size. Patches and jitter: every draw of a step is used.
CHANGES = {"batch_size": 5, "patches": 0.8, "augment": 0.4, "optimiser": "sgd", "seed": 2}


def in_float64(batch: Batch) -> Batch:
    """The batch with its cameras and latents as float64."""
    numbers = ("viewpoint", "focal", "principal_point")
    wide = {name: getattr(batch, name).double() for name in numbers}
    return batch._replace(**wide, latent=[z.double() for z in batch.latent])


def run(folder: Path, method: str, out: Path) -> None:
    """STEPS steps of plain gradient descent from one state, the same in every process."""
    torch.set_num_threads(1)
    distributed.join("cpu")
    config = tiny_world.training(method, **CHANGES)
    split = CacheSplit.open(folder / "cache", ["pascal3d/train"])
    data = SampleDataset(split, 2**20)
    torch.manual_seed(config.seed)
    shapes = METHODS[method].shapes.gather(config, split, folder / "shapes")
    model = METHODS[method].build(config, split.categories, shapes).double().train()
    distributed.with_joint_norm(model)
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept: dict[str, torch.Tensor] = {}
    for step in Batches(data, model.categories, model.num_latents, config, "cpu").steps(range(STEPS)):
        loss, _ = model.training_loss(in_float64(step.batch), step.generator)
        model.zero_grad(set_to_none=True)
        loss.backward()
        distributed.sum_gradients(learned.values())
        if step.number == 0:
            kept |= {f"gradient.{name}": p.grad for name, p in learned.items() if p.grad is not None}
        with torch.no_grad():
            for parameter in learned.values():
                if parameter.grad is not None:
                    parameter -= config.learning_rate * parameter.grad
        kept[f"photos.{step.number}"] = torch.tensor(step.samples)
        kept |= {f"step{step.number}.{name}": value.clone() for name, value in model.state_dict().items()}
    path = out.with_name(f"{out.name}_{distributed.rank()}.safetensors")
    safetensors.torch.save_file({name: value.contiguous() for name, value in kept.items()}, path)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
