"""Seconds a photo of `ntdm evaluate`'s solver, and where they go, at the sizes of `tiny` and `paper`.

    python benchmarks/bench_infer.py [--config tiny|paper] [--photos 8] [--run RUN --cache CACHE --split KEY]

One run, without a warm-up. Without --run the model is untrained, its textures and photos random: a step costs
the same; all steps are made for every category. With --run, photos of a cache are fitted with the config's
settings: all steps for every category; where there are several, for those that `class_margin` leaves; and
with --patience, by default the config's own.
"""

import argparse
import dataclasses
import platform
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import normalize

from ntdm.config.reading import resolve
from ntdm.config.stages import InferConfig, ShapeConfig
from ntdm.data.dataset import SampleDataset
from ntdm.geometry import metrics
from ntdm.geometry.camera import rotation
from ntdm.io import cache_split
from ntdm.methods import load
from ntdm.methods.ntdm import NTDM, NTDMPredictor, TextureRenderer
from ntdm.methods.registry import configure
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.render_and_compare.encode import encode
from ntdm.render_and_compare.solver import Solver

SIZES = {"tiny": ((128, 128), 3), "paper": ((256, 672), 1)}  # of a crop, and categories


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--split", default="pascal3d/val")
    parser.add_argument("--patience", type=int, help="steps; by default the config's, or 6 where that is 0")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if args.run is None:
        bench_untrained(args)
    else:
        bench_trained(args)


def bench_untrained(args: argparse.Namespace) -> None:
    (height, width), count = SIZES[args.config]
    shape, inference = (resolve(cls, args.config) for cls in (ShapeConfig, InferConfig))
    training = configure(args.config, method="ntdm")
    inference = dataclasses.replace(inference, patience=0)
    torch.manual_seed(0)
    shapes = {f"category {i}": DeformableMesh(shape, 10) for i in range(count)}
    model = NTDM(training, shapes).requires_grad_(False).eval().to(args.device)
    model.texture.theta.copy_(normalize(torch.randn_like(model.texture.theta), dim=-1))
    model.texture.seen.fill_(1)
    model.bank.push(normalize(torch.randn_like(model.bank.features), dim=-1))
    for category in range(count):
        model.shape(category).scale.fill_(0.25)
    focal = 3000 * max(height, width) / 640
    photo = torch.randint(0, 256, (args.photos, 3, height, width), dtype=torch.uint8, device=args.device)
    print(
        f"{args.config}, untrained: {height} x {width}, stride {model.stride}, {count} categories,\n"
        f"{inference.steps} steps after {inference.refined_starts} starts; seconds a photo of {args.photos}:"
    )
    solvers, made = timed(
        args.device,
        lambda: [Solver(TextureRenderer(model, c), inference, (height, width), focal) for c in range(count)],
    )
    photos, encoded = timed(args.device, lambda: encode(model, photo, inference))
    chosen, scored = timed(args.device, lambda: [s.starts.choose(photos) for s in solvers])
    _, refined = timed(
        args.device, lambda: [s.solve(photos, c) for s, c in zip(solvers, chosen, strict=True)]
    )
    for what, seconds in (("features", encoded), ("starts", scored), ("refinement", refined)):
        print(f"  {what:12s} {seconds / args.photos:8.4f}")
    print(f"  {'in all':12s} {(encoded + scored + refined) / args.photos:8.4f}")
    print(f"  starts rendered once: {made:.2f} s")


def bench_trained(args: argparse.Namespace) -> None:
    model, description = load.load(args.run, args.device)
    data = SampleDataset(cache_split.find(args.cache, args.split))
    count = min(args.photos, len(data))
    items = [data[i * len(data) // count] for i in range(count)]
    photo = torch.stack([item["image"] for item in items]).to(args.device)
    own = [model.categories.index(item["category"]) for item in items]
    truth = rotation(torch.stack([item["viewpoint"] for item in items]).double()).numpy()
    print(f"{args.run}, {args.split}: {count} photos, {len(model.categories)} categories")
    mask = torch.stack([item["amodal_mask"] for item in items])
    early = resolve(InferConfig, args.config, None, None)
    if args.patience is None:
        args.patience = early.patience or 6
    early = dataclasses.replace(early, patience=args.patience)
    whole = dataclasses.replace(early, patience=0)
    ways = {
        "every category": dataclasses.replace(whole, class_margin=1.0),
        "class_margin": whole,
        f"patience {early.patience}": early,
    }
    if len(model.categories) == 1:
        del ways["class_margin"]
    for name, config in ways.items():
        predictor = NTDMPredictor(model, config, data.image_size, description["nominal_focal"])
        guesses, seconds = timed(args.device, partial(_predicted, predictor, photo, own, config.batch_size))
        found = rotation(torch.cat([g.viewpoint for g in guesses]).cpu().double()).numpy()
        error = metrics.rotation_error(found, truth)
        named = torch.cat([g.category for g in guesses]).cpu() == torch.tensor(own)
        overlap = metrics.iou(torch.cat([g.amodal for g in guesses]).cpu().numpy(), mask.numpy())
        within = [metrics.accuracy(error, threshold) for threshold in (metrics.PI_6, metrics.PI_18)]
        print(
            f"  {name:16s} {seconds / count:7.4f} s a photo, pi/6 {within[0]:5.1f}, pi/18 {within[1]:5.1f}, "
            f"IoU {100 * overlap.mean():5.1f}, class {100 * named.float().mean():5.1f}"
        )


def _predicted(predictor, photo, own, size):
    return [predictor(photo[i : i + size], own[i : i + size]) for i in range(0, len(own), size)]


def timed(device: str, work):
    """What `work` gives, and the seconds it took, the device waited for."""
    start = time.perf_counter()
    found = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
