"""Photos a second of `ntdm train`, and where the time of a step goes, at the sizes of `tiny` and `paper`.

    python benchmarks/bench_train.py [--config tiny|paper] [--batch N] [--steps 4] [--device cuda]

Photos of noise under random cameras, in memory: what is timed is a step and the making of its batch, changed
as the config says. The model is untrained; a few steps go before, so that textures and bank hold something.
Photos a second are timed alone; then some steps under torch's profiler share the time among the kinds of
operators, by their own time on the device.
"""

import argparse
import math
import time
from collections import Counter

import torch
from measure import machine, synchronize
from torch.profiler import ProfilerActivity, profile

from ntdm.config.reading import resolve
from ntdm.config.stages import ShapeConfig
from ntdm.data.augment import draw_augmentation
from ntdm.data.batch import Batch, make_batch
from ntdm.geometry.camera import PASCAL3D_FOCAL_PX, cam_from_obj
from ntdm.methods.ntdm import NTDM
from ntdm.methods.registry import configure
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.ops.rasterize import coverage
from ntdm.training import schedule

SIZES = {"tiny": ((128, 128), 3, 16), "paper": ((256, 672), 1, 4)}  # of a crop, categories, photos a step
KINDS = {  # by what an operator's name holds; the first that fits
    "convolutions": ("conv", "mkldnn"),
    "batch norm": ("batch_norm", "native_batch"),
    "rasterizer": ("rasterize", "interpolate", "coverage"),
    "UV scatter": ("uv_scatter",),
    "texture update": ("texture_update",),
    "up-sampling": ("upsample", "grid_sampl"),
    "copies, casts, gathers": ("copy", "cat", "index", "gather", "clone", "fill"),
    "products (loss, Psi)": ("addmm", "bmm", "::mm", "gemm"),
    "optimiser": ("adam", "optimizer"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", help="key=value of [train]")
    args = parser.parse_args()
    print(machine(args.device))
    size, count, batch_size = SIZES[args.config]
    config = configure(
        args.config, [*(args.set or ()), f"batch_size={args.batch or batch_size}"], None, "ntdm"
    )
    torch.manual_seed(0)
    shape = resolve(ShapeConfig, args.config, None, None)
    model = NTDM(config, {f"category {i}": DeformableMesh(shape, 10) for i in range(count)})
    for category in range(count):
        model.shape(category).scale.fill_(0.25)
    items = samples(model, size, 2 * config.batch_size)
    model.to(args.device).train()
    optimiser = schedule.make_optimiser(config, [p for p in model.parameters() if p.requires_grad])
    for step in range(2):
        take(model, items, optimiser, step, args.device)
    synchronize(args.device)
    start, making = time.perf_counter(), 0.0
    for step in range(args.steps):
        making += take(model, items, optimiser, step, args.device)
    synchronize(args.device)
    seconds = (time.perf_counter() - start) / args.steps
    print(
        f"{args.config}: {size[0]} x {size[1]}, {config.backbone}, {count} categories, "
        f"{config.batch_size} photos a step\n{config.batch_size / seconds:.2f} photos/s; "
        f"a step {seconds:.3f} s, of which its batch {making / args.steps:.3f} s"
    )
    activities = [ProfilerActivity.CUDA if args.device == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        for step in range(max(1, args.steps // 2)):
            take(model, items, optimiser, step, args.device)
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        own = event.self_device_time_total if args.device == "cuda" else event.self_cpu_time_total
        kind = (k for k, parts in KINDS.items() if any(part in event.key.lower() for part in parts))
        spent[next(kind, "all else")] += own
    for kind, own in spent.most_common():
        print(f"  {kind:22s} {100 * own / spent.total():5.1f} %")


def samples(model: NTDM, size: tuple[int, int], count: int) -> list[dict[str, object]]:
    """Photos of noise, one category after the other, with cameras that see the object whole."""
    height, width = size
    generator = torch.Generator().manual_seed(0)
    made: list[dict[str, object]] = []
    focal, point = torch.tensor(PASCAL3D_FOCAL_PX * max(size) / 640), torch.tensor([width / 2, height / 2])
    for i in range(count):
        angles = torch.rand(3, generator=generator) * torch.tensor([2 * math.pi, 1.0, 0.4])
        viewpoint = torch.cat([angles - torch.tensor([0.0, 0.2, 0.2]), torch.tensor([5.0])])
        category = i % len(model.categories)
        latent = torch.zeros(model.num_latents[category])
        latent[i % len(latent)] = 1
        vertices = cam_from_obj(model.shape(category)(latent[None]), viewpoint[None])
        mask = coverage(vertices[0], model.faces, focal, point, size)
        photo = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        made.append(
            {
                "category": model.categories[category],
                "image": photo,
                "amodal_mask": mask,
                "viewpoint": viewpoint,
            }
            | {"focal": focal, "principal_point": point, "latent": latent}
        )
    return made


def take(
    model: NTDM, items: list[dict[str, object]], optimiser: torch.optim.Optimizer, step: int, device: str
) -> float:
    """One step as ntdm/train.py makes it; the seconds of its batch."""
    start = time.perf_counter()
    config, generator = model.config, torch.Generator().manual_seed(step)
    drawn = draw_augmentation(config.batch_size, config, generator)
    own = [items[(step * config.batch_size + i) % len(items)] for i in range(config.batch_size)]
    batch: Batch = make_batch(own, model.categories, model.num_latents, config, drawn).to(device)
    making = time.perf_counter() - start
    loss, _ = model.training_loss(batch, generator)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return making


if __name__ == "__main__":
    main()
