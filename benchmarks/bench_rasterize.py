"""Rasterizer and soft silhouette: time a render, beside the torch twins and open3d's ray casting.

    python benchmarks/bench_rasterize.py --threads 1

Prints versions, then one line a setting: microseconds a render (the least of several runs after one warm-up),
forward and backward, and renders a second of the rasterizer's forward. The last lines are one dense CAD-sized
mesh on one large picture, as masks and synthetic photos need it.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ntdm import camera, mesh
from ntdm.rasterize import (
    coverage,
    rasterize,
    rasterize_reference,
    soft_silhouette,
    soft_silhouette_reference,
)

Scene = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]


def scene(batch: int, subdivisions: int, size: int) -> Scene:
    """Ellipsoids in random poses that cover about a third of a square map."""
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(0)
    viewpoint = torch.rand(batch, 4, generator=generator) * 2
    viewpoint[:, 3] = 5
    scaled = (sphere.vertices * torch.tensor([0.6, 0.35, 0.5])).expand(batch, -1, -1)
    vertices = camera.cam_from_obj(scaled, viewpoint).contiguous()
    focal = torch.full((batch,), 3.4 * size)
    centre = torch.full((batch, 2), size / 2)
    return vertices, sphere.faces, focal, centre, (size, size)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Least wall time of one run, after a warm-up."""
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def ours(batch: int, subdivisions: int, size: int, repeats: int) -> str:
    """One line: microseconds a render of each operator, forward and backward."""
    vertices, faces, focal, centre, shape = scene(batch, subdivisions, size)
    leaf = vertices.clone().requires_grad_()
    fragments = rasterize(leaf, faces, focal, centre, shape)
    silhouette = soft_silhouette(leaf, faces, focal, centre, fragments)
    to_barycentric, to_soft = torch.randn_like(fragments.barycentric), torch.randn_like(silhouette.soft)

    def back(output: Tensor, gradient: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, leaf, gradient, retain_graph=True)

    times = [
        seconds(run, repeats) / batch * 1e6
        for run in (
            lambda: rasterize(leaf, faces, focal, centre, shape),
            back(fragments.barycentric, to_barycentric),
            lambda: soft_silhouette(leaf, faces, focal, centre, fragments),
            back(silhouette.soft, to_soft),
        )
    ]
    return (
        f"{batch:4d} x {size:3d}^2, {len(faces):6d} faces: rasterize {times[0]:6.1f} + {times[1]:6.1f} us, "
        f"soft silhouette {times[2]:6.1f} + {times[3]:6.1f} us; {1e6 / times[0]:8.0f} renders/s"
    )


def twins(subdivisions: int, size: int) -> str:
    """One line: the torch references, one render, forward only."""
    vertices, faces, focal, centre, shape = scene(1, subdivisions, size)
    fragments = rasterize(vertices, faces, focal, centre, shape)
    hard = seconds(lambda: rasterize_reference(vertices, faces, focal, centre, shape), 2)
    soft = seconds(lambda: soft_silhouette_reference(vertices, faces, focal, centre, fragments), 2)
    sizes = f"   1 x {size:3d}^2, {len(faces):6d} faces"
    return f"{sizes}: torch reference {hard * 1e6:.0f} us, soft {soft * 1e6:.0f} us"


def peer(batch: int, subdivisions: int, size: int, repeats: int) -> str:
    """One line: open3d's RaycastingScene with a new tree a render (the shape changes), rays ready."""
    try:
        import open3d  # not a door of the package: a comparison that is left out where it is missing
    except ImportError as error:
        return f"open3d: not measured ({error})"
    vertices, faces, focal, centre, _ = scene(batch, subdivisions, size)
    x, y = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="xy")
    ray = torch.stack(
        [(x - centre[0, 0]) / focal[0], -(y - centre[0, 1]) / focal[0], -torch.ones_like(x)], -1
    )
    rays = open3d.core.Tensor(torch.cat([torch.zeros_like(ray), ray], -1).numpy())
    triangles = open3d.core.Tensor(faces.numpy().astype("uint32"))

    def run() -> None:
        for item in vertices.numpy():
            tree = open3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())
            tree.add_triangles(open3d.core.Tensor(item), triangles)
            tree.cast_rays(rays, nthreads=torch.get_num_threads())

    rate = batch / seconds(run, repeats)
    sizes = f"{batch:4d} x {size:3d}^2, {len(faces):6d} faces"
    return f"{sizes}: open3d {open3d.__version__} ray casting {rate:.0f} renders/s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, ", end="")
    print(f"{arguments.threads} threads, float32; forward + backward a render")
    for batch, subdivisions, size in ((100, 3, 32), (576, 3, 32), (144, 4, 64), (144, 4, 128)):
        print(ours(batch, subdivisions, size, arguments.repeats), flush=True)
    print(twins(3, 32), flush=True)
    print(peer(16, 4, 64, arguments.repeats), flush=True)
    for subdivisions in (4, 6):
        vertices, faces, focal, centre, shape = scene(1, subdivisions, 512)
        arguments_of_one = (vertices[0], faces, focal[0], centre[0], shape)
        best = seconds(lambda a=arguments_of_one: coverage(*a), arguments.repeats)
        print(f"   1 x 512^2, {len(faces):6d} faces: coverage {best * 1e3:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
