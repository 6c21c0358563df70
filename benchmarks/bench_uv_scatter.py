"""Time of the UV scatter and of the texture look-up against their torch twins, forward and backward.

    python benchmarks/bench_uv_scatter.py --threads 1

Prints versions and sizes, then one line an operator: milliseconds of the kernel and of the twin (the least of
several runs after one warm-up, and the processor time of that run, which other work on the machine disturbs
less), and the ratio of the processor times.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.texture_lookup import (
    texture_lookup,
    texture_lookup_reference,
    texture_similarity,
    texture_similarity_reference,
)
from ntdm.uv_scatter import uv_scatter, uv_scatter_reference


def sphere_view(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """uv [B, h, w, 2] and coverage [B, h, w] of a sphere that fills the picture, the seam in front."""
    ticks = torch.linspace(-1.1, 1.1, size)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    square = x * x + y * y
    front = (1 - square).clamp(min=0).sqrt()
    uv = torch.stack([torch.atan2(x, front) / (2 * math.pi) % 1, (-y).clamp(-1, 1).acos() / math.pi], -1)
    return uv.repeat(batch, 1, 1, 1), (square < 1).repeat(batch, 1, 1)


def milliseconds(run: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Least wall time and least processor time of one run, after a warm-up."""
    run()
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall_times, processor_times = zip(*times, strict=True)
    return min(wall_times) * 1e3, min(processor_times) * 1e3


def compare(label: str, kernel: Callable[[], None], twin: Callable[[], None], repeats: int) -> None:
    ours, twins = milliseconds(kernel, repeats), milliseconds(twin, 2)
    print(
        f"{label:32} kernel {ours[0]:9.2f} ms ({ours[1]:9.2f} cpu)   torch twin {twins[0]:9.1f} ms"
        f" ({twins[1]:9.1f} cpu)   ratio of cpu {twins[1] / ours[1]:7.1f}"
    )


def bench_scatter(batch: int, picture: int, texels: int, channels: int, repeats: int) -> None:
    uv, coverage = sphere_view(batch, picture)
    features = torch.randn(batch, picture, picture, channels)
    upstream = torch.randn(batch, texels, texels, channels)
    print(
        f"uv_scatter: B {batch}, h = w {picture}, d {channels}, q {texels}, {int(coverage[0].sum())} covered"
    )

    def forward(op: Callable) -> None:
        op(features, uv, coverage, texels)

    def both(op: Callable, for_uv: bool) -> None:
        leaf, uv_leaf = features.requires_grad_(), uv.detach().requires_grad_(for_uv)
        leaf.grad = None
        op(leaf, uv_leaf, coverage, texels)[0].backward(upstream)

    with torch.no_grad():
        compare("forward", lambda: forward(uv_scatter), lambda: forward(uv_scatter_reference), repeats)
    for label, for_uv in (("forward, backward to features", False), ("forward, backward to both", True)):
        compare(
            label,
            lambda for_uv=for_uv: both(uv_scatter, for_uv),
            lambda for_uv=for_uv: both(uv_scatter_reference, for_uv),
            repeats,
        )


def bench_lookup(points: int, texels: int, bins: int, channels: int, repeats: int) -> None:
    texture = normalize(torch.randn(1, texels, texels, bins, channels), dim=-1)
    seen = (torch.rand(1, texels, texels, bins) > 0.1).float()
    uv, coverage = sphere_view(math.ceil(points / 620), 32)  # rendered maps: neighbours share texels
    uv = uv[coverage][:points].requires_grad_()
    alpha = torch.softmax(4 * torch.randn(len(uv), bins), -1).requires_grad_()
    target = normalize(torch.randn(len(uv), channels), dim=-1)
    given = texture, seen, torch.zeros(len(uv), dtype=torch.int64), uv, alpha
    print(f"texture_lookup: P {len(uv)}, q {texels}, b {bins}, d {channels}")

    def both(op: Callable, *rest: Tensor) -> None:
        uv.grad = alpha.grad = None
        value, evidence = op(*given, *rest)
        (value.sum() + evidence.sum()).backward()

    def forward(op: Callable) -> None:
        with torch.no_grad():
            op(*given, target)

    compare(
        "similarity, forward",
        lambda: forward(texture_similarity),
        lambda: forward(texture_similarity_reference),
        repeats,
    )
    compare(
        "similarity, forward, backward",
        lambda: both(texture_similarity, target),
        lambda: both(texture_similarity_reference, target),
        repeats,
    )
    compare(
        "look-up, forward, backward",
        lambda: both(texture_lookup),
        lambda: both(texture_lookup_reference),
        repeats,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16, help="images of the scatter")
    parser.add_argument("--picture", type=int, default=32, help="height and width of the feature map")
    parser.add_argument("--texels", type=int, default=64, help="q")
    parser.add_argument("--channels", type=int, default=64, help="d")
    parser.add_argument("--points", type=int, default=40_000, help="points of the look-up")
    parser.add_argument("--bins", type=int, default=7, help="view bins b of the look-up")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, "
        f"{args.threads} threads, float32"
    )
    bench_scatter(args.batch, args.picture, args.texels, args.channels, args.repeats)
    bench_lookup(args.points, args.texels, args.bins, args.channels, args.repeats)


if __name__ == "__main__":
    main()
