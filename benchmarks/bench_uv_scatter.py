"""Time of the UV scatter and of the texture look-up against their torch twins, forward and backward.

    python benchmarks/bench_uv_scatter.py --threads 1
    python benchmarks/bench_uv_scatter.py --device cuda --paper

Prints the machine, then one line an operator: the kernel's least wall and processor time after a warm-up, the
bytes of its inputs and outputs, each once, over that wall time, beside what a copy into memory in use reaches
and, on the CPU, `clone()`, whose target is new memory as an operator's output is. "Read" counts of the
upstream gradient only the texels under a quad, which are all that a kernel has to read. Last, where it fits
into memory, the torch twin's wall time.
"""

import argparse
import math
from collections.abc import Callable

import torch
from measure import copy_bandwidth, fresh_copy_bandwidth, machine, seconds
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.ops.texture_lookup import (
    texture_lookup,
    texture_lookup_reference,
    texture_similarity,
    texture_similarity_reference,
)
from ntdm.ops.uv_scatter import uv_scatter, uv_scatter_reference

TWIN_LIMIT = 2**30  # bytes of the mean, of which the twin holds several


def sphere_view(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """uv [B, h, w, 2] and coverage [B, h, w] of a sphere that fills the picture, the seam in front."""
    ticks = [torch.linspace(-1.1, 1.1, n) for n in (height, width)]
    y, x = torch.meshgrid(*ticks, indexing="ij")
    square = x * x + y * y
    front = (1 - square).clamp(min=0).sqrt()
    uv = torch.stack([torch.atan2(x, front) / (2 * math.pi) % 1, (-y).clamp(-1, 1).acos() / math.pi], -1)
    return uv.repeat(batch, 1, 1, 1), (square < 1).repeat(batch, 1, 1)


class Bench:
    """Prints one line an operator: the kernel's time, its share of copy bandwidth, the torch twin's time."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats, self.copy = device, repeats, copy_bandwidth(device)
        self.clone = fresh_copy_bandwidth() if device == "cpu" else None

    def line(
        self,
        label: str,
        moved: int,
        kernel: Callable[[], None],
        twin: Callable[[], None] | None,
        unread: int = 0,
    ) -> None:
        """moved: bytes of the inputs, read once, and of the outputs, written once; unread: those of them that
        nobody has to read.
        """
        wall, processor = seconds(kernel, self.repeats, self.device)
        rate = moved / wall
        text = (
            f"{label:32} kernel {wall * 1e3:9.2f} ms ({processor * 1e3:9.2f} cpu), {rate / 1e9:7.1f} GB/s, "
        )
        text += f"{100 * rate / self.copy:5.1f} % of copy"
        if unread:
            text += f" ({100 * (moved - unread) / wall / self.copy:.1f} % read)"
        if self.clone:
            text += f", {100 * rate / self.clone:5.1f} % of clone()"
        if twin is not None:
            theirs = seconds(twin, 2, self.device)
            ratio = theirs[0] / wall
            text += f"   torch twin {theirs[0] * 1e3:9.1f} ms, {ratio:7.1f} times as long"
        print(text, flush=True)


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def bench_scatter(bench: Bench, batch: int, picture: tuple[int, int], texels: int, channels: int) -> None:
    uv, coverage = (t.to(bench.device) for t in sphere_view(batch, *picture))
    features = torch.randn(batch, *picture, channels, device=bench.device)
    upstream = torch.randn(batch, texels, texels, channels, device=bench.device)
    covered = int(coverage[0].sum())
    print(f"uv_scatter: B {batch}, h x w {picture}, d {channels}, q {texels}, {covered} covered")
    mean, weight = uv_scatter(features, uv, coverage, texels)
    with_twin = mean.nbytes <= TWIN_LIMIT
    unread = int((weight == 0).sum()) * channels * mean.element_size()
    forward_bytes = nbytes(features, uv, coverage, mean, weight)
    del mean  # the largest tensor, and not needed again

    def forward(op: Callable) -> None:
        op(features, uv, coverage, texels)

    def both(op: Callable, for_uv: bool) -> None:
        leaf, uv_leaf = features.detach().requires_grad_(), uv.detach().requires_grad_(for_uv)
        op(leaf, uv_leaf, coverage, texels)[0].backward(upstream)

    def twin(run: Callable, *rest: bool) -> Callable[[], None] | None:
        return (lambda: run(uv_scatter_reference, *rest)) if with_twin else None

    with torch.no_grad():
        bench.line("forward", forward_bytes, lambda: forward(uv_scatter), twin(forward))
    for label, for_uv in (("forward, backward to features", False), ("forward, backward to both", True)):
        moved = forward_bytes + nbytes(upstream, uv, coverage, features)
        moved += nbytes(features, uv) if for_uv else 0
        bench.line(label, moved, lambda for_uv=for_uv: both(uv_scatter, for_uv), twin(both, for_uv), unread)


def bench_lookup(bench: Bench, points: int, texels: int, bins: int, channels: int) -> None:
    device = bench.device
    texture = normalize(torch.randn(1, texels, texels, bins, channels, device=device), dim=-1)
    seen = (torch.rand(1, texels, texels, bins, device=device) > 0.1).float()
    uv, coverage = sphere_view(math.ceil(points / 620), 32, 32)  # rendered maps: neighbours share texels
    uv = uv[coverage][:points].to(device).requires_grad_()
    alpha = torch.softmax(4 * torch.randn(len(uv), bins, device=device), -1).requires_grad_()
    target = normalize(torch.randn(len(uv), channels, device=device), dim=-1)
    given = texture, seen, torch.zeros(len(uv), dtype=torch.int64, device=device), uv, alpha
    moved = nbytes(*given, target) + 2 * 4 * len(uv)
    print(f"texture_lookup: P {len(uv)}, q {texels}, b {bins}, d {channels}")

    def both(op: Callable, *rest: Tensor) -> None:
        uv.grad = alpha.grad = None
        value, evidence = op(*given, *rest)
        (value.sum() + evidence.sum()).backward()

    def forward(op: Callable) -> None:
        with torch.no_grad():
            op(*given, target)

    for label, run, rest in (
        ("similarity, forward", forward, ()),
        ("similarity, forward, backward", both, (target,)),
    ):
        bench.line(
            label,
            moved,
            lambda run=run, rest=rest: run(texture_similarity, *rest),
            lambda run=run, rest=rest: run(texture_similarity_reference, *rest),
        )
    bench.line(
        "look-up, forward, backward",
        moved,
        lambda: both(texture_lookup),
        lambda: both(texture_lookup_reference),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--paper", action="store_true", help="the paper's sizes: q 256, d 128, batch to 144")
    parser.add_argument("--batch", type=int, default=16, help="images of the scatter")
    parser.add_argument("--picture", type=int, default=32, help="height and width of the feature map")
    parser.add_argument("--texels", type=int, default=64, help="q")
    parser.add_argument("--channels", type=int, default=64, help="d")
    parser.add_argument("--points", type=int, default=40_000, help="points of the look-up")
    parser.add_argument("--bins", type=int, default=7, help="view bins b of the look-up")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bench = Bench(args.device, args.repeats)
    clone = f", clone() {bench.clone / 1e9:.1f} GB/s" if bench.clone else ""
    print(f"{machine(args.device)}, float32; copy {bench.copy / 1e9:.1f} GB/s{clone}")
    if args.paper:
        for batch, picture in ((1, (32, 84)), (16, (32, 84)), (16, (80, 100)), (144, (80, 100))):
            bench_scatter(bench, batch, picture, 256, 128)
        bench_lookup(bench, args.points, 256, 7, 128)
        return
    bench_scatter(bench, args.batch, (args.picture, args.picture), args.texels, args.channels)
    bench_lookup(bench, args.points, args.texels, args.bins, args.channels)


if __name__ == "__main__":
    main()
