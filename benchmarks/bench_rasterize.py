"""Rasterizer and soft silhouette: time a render, beside the torch twins, open3d's ray casting and Kaolin.

    python benchmarks/bench_rasterize.py --threads 1
    python benchmarks/bench_rasterize.py --device cuda

Prints versions, then one line a setting: microseconds a render (the least of several runs after one warm-up),
forward and backward, and renders a second of the rasterizer's forward. The last lines are one dense CAD-sized
mesh on one large picture, as masks and synthetic photos need it.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from measure import machine, seconds
from torch import Tensor

from ntdm import camera, mesh, rasterize_kaolin
from ntdm.rasterize import (
    coverage,
    rasterize,
    rasterize_reference,
    soft_silhouette,
    soft_silhouette_reference,
)

Scene = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]


def scene(batch: int, subdivisions: int, size: int, device: str) -> Scene:
    """Ellipsoids in random poses that cover about a third of a square map."""
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(0)
    viewpoint = torch.rand(batch, 4, generator=generator) * 2
    viewpoint[:, 3] = 5
    scaled = (sphere.vertices * torch.tensor([0.6, 0.35, 0.5])).expand(batch, -1, -1)
    vertices = camera.cam_from_obj(scaled, viewpoint).contiguous()
    focal = torch.full((batch,), 3.4 * size)
    centre = torch.full((batch, 2), size / 2)
    return vertices.to(device), sphere.faces.to(device), focal.to(device), centre.to(device), (size, size)


def ours(batch: int, subdivisions: int, size: int, repeats: int, device: str) -> str:
    """One line: microseconds a render of each native operator, forward and backward."""
    vertices, faces, focal, centre, shape = scene(batch, subdivisions, size, device)
    leaf = vertices.clone().requires_grad_()
    fragments = rasterize(leaf, faces, focal, centre, shape, "native")
    silhouette = soft_silhouette(leaf, faces, focal, centre, fragments)
    to_barycentric, to_soft = torch.randn_like(fragments.barycentric), torch.randn_like(silhouette.soft)

    def back(output: Tensor, gradient: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, leaf, gradient, retain_graph=True)

    times = [
        seconds(run, repeats, device)[0] / batch * 1e6
        for run in (
            lambda: rasterize(leaf, faces, focal, centre, shape, "native"),
            back(fragments.barycentric, to_barycentric),
            lambda: soft_silhouette(leaf, faces, focal, centre, fragments),
            back(silhouette.soft, to_soft),
        )
    ]
    return (
        f"{batch:4d} x {size:3d}^2, {len(faces):6d} faces: rasterize {times[0]:6.1f} + {times[1]:6.1f} us, "
        f"soft silhouette {times[2]:6.1f} + {times[3]:6.1f} us; {1e6 / times[0]:8.0f} renders/s"
    )


def kaolin(batch: int, subdivisions: int, size: int, repeats: int) -> str:
    """One line: Kaolin's DIB-R at the same work, its kernels alone and as our backend (weights, depth)."""
    reason = rasterize_kaolin.missing()
    if reason is not None:
        return f"Kaolin: not measured ({reason})"
    from kaolin.render.mesh import rasterize as dibr

    vertices, faces, focal, centre, shape = scene(batch, subdivisions, size, "cuda")
    xy, depth = camera.project(vertices, focal, centre)
    image = torch.stack([2 * xy[..., 0] / size - 1, 1 - 2 * xy[..., 1] / size], -1)[:, faces]
    z = (1 / depth)[:, faces]
    one_hot = torch.eye(3, device="cuda").expand(batch, len(faces), 3, 3)
    alone = []
    for backend in ("cuda", "nvdiffrast") if importlib.util.find_spec("nvdiffrast") else ("cuda",):
        run = partial(dibr, size, size, z, image, one_hot, backend=backend)
        alone.append(f"{backend} {seconds(run, repeats, 'cuda')[0] / batch * 1e6:6.1f} us")
    whole = seconds(lambda: rasterize(vertices, faces, focal, centre, shape, "kaolin"), repeats, "cuda")[0]
    index = [rasterize(vertices, faces, focal, centre, shape, b).face_index for b in ("native", "kaolin")]
    same = float((index[0] == index[1]).float().mean())
    return (
        f"{batch:4d} x {size:3d}^2, {len(faces):6d} faces: Kaolin {', '.join(alone)}; as our backend "
        f"{whole / batch * 1e6:6.1f} us; {same:.6f} of the pixels show the native face"
    )


def twins(subdivisions: int, size: int, device: str) -> str:
    """One line: the torch references, one render, forward only."""
    vertices, faces, focal, centre, shape = scene(1, subdivisions, size, device)
    fragments = rasterize(vertices, faces, focal, centre, shape)
    hard = seconds(lambda: rasterize_reference(vertices, faces, focal, centre, shape), 2, device)[0]
    soft = seconds(lambda: soft_silhouette_reference(vertices, faces, focal, centre, fragments), 2, device)[0]
    sizes = f"   1 x {size:3d}^2, {len(faces):6d} faces"
    return f"{sizes}: torch reference {hard * 1e6:.0f} us, soft {soft * 1e6:.0f} us"


def peer(batch: int, subdivisions: int, size: int, repeats: int) -> str:
    """One line: open3d's RaycastingScene with a new tree a render (the shape changes), rays ready."""
    try:
        import open3d  # not a door of the package: a comparison that is left out where it is missing
    except ImportError as error:
        return f"open3d: not measured ({error})"
    vertices, faces, focal, centre, _ = scene(batch, subdivisions, size, "cpu")
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

    rate = batch / seconds(run, repeats)[0]
    sizes = f"{batch:4d} x {size:3d}^2, {len(faces):6d} faces"
    return f"{sizes}: open3d {open3d.__version__} ray casting {rate:.0f} renders/s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats, device = arguments.repeats, arguments.device
    print(f"{machine(device)}, float32; forward + backward a render")
    for batch, subdivisions, size in ((1, 4, 64), (100, 3, 32), (576, 3, 32), (144, 4, 64), (144, 4, 128)):
        print(ours(batch, subdivisions, size, repeats, device), flush=True)
        if device == "cuda":
            print(kaolin(batch, subdivisions, size, repeats), flush=True)
    print(twins(3, 32, device), flush=True)
    if device == "cpu":
        print(peer(16, 4, 64, repeats), flush=True)
    for subdivisions in (4, 6):
        vertices, faces, focal, centre, shape = scene(1, subdivisions, 512, device)
        arguments_of_one = (vertices[0], faces, focal[0], centre[0], shape)
        best = seconds(lambda a=arguments_of_one: coverage(*a), repeats, device)[0]
        print(f"   1 x 512^2, {len(faces):6d} faces: coverage {best * 1e3:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
