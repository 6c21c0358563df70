"""Rasterizer and soft silhouette: time a render, beside the torch twins, open3d, PyTorch3D and Kaolin.

    python benchmarks/bench_rasterize.py --threads 1
    python benchmarks/bench_rasterize.py --device cuda

Prints versions, then one line a setting: microseconds a render (the least of several runs after one warm-up),
forward and backward, and renders a second of the rasterizer's forward; then, on the CPU, the same renders by
open3d and PyTorch3D, where they import. The last lines are one dense CAD-sized mesh on one large picture, as
masks and synthetic photos need it.
"""

import argparse
import importlib
import importlib.util
import time
from collections.abc import Callable
from functools import partial

import torch
from measure import machine, seconds
from torch import Tensor

from ntdm.geometry import camera, mesh
from ntdm.ops import rasterize_kaolin
from ntdm.ops.rasterize import coverage, rasterize, rasterize_reference
from ntdm.ops.soft_silhouette import soft_silhouette, soft_silhouette_reference

Scene = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]


def scene(batch: int, subdivisions: int, size: int | tuple[int, int], device: str) -> Scene:
    """Ellipsoids in random poses that cover about a third of a square map."""
    shape = (size, size) if isinstance(size, int) else size
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(0)
    viewpoint = torch.rand(batch, 4, generator=generator) * 2
    viewpoint[:, 3] = 5
    scaled = (sphere.vertices * torch.tensor([0.6, 0.35, 0.5])).expand(batch, -1, -1)
    vertices = camera.cam_from_obj(scaled, viewpoint).contiguous()
    focal = torch.full((batch,), 3.4 * min(shape))
    centre = torch.tensor([shape[1] / 2, shape[0] / 2]).repeat(batch, 1)
    return vertices.to(device), sphere.faces.to(device), focal.to(device), centre.to(device), shape


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


def peers(batch: int, shape: tuple[int, int], repeats: int) -> str:
    """One paragraph: face index and weights of one face a pixel, ours and the CPU's other rasterizers.

    A peer that does not import is left out. It renders what we render, once, in as many threads; the share
    of the pixels where it sees the same face is printed.
    """
    vertices, faces, focal, centre, _ = scene(batch, 4, shape, "cpu")
    index = rasterize(vertices, faces, focal, centre, shape).face_index
    ours = batch / seconds(lambda: rasterize(vertices, faces, focal, centre, shape), repeats)[0]
    lines = [f"{batch:4d} x {shape[0]} x {shape[1]}, {len(faces)} faces: native {ours:.0f} renders/s"]
    for name, package, run in (
        ("open3d, new tree a render", "open3d", ray_casting),
        ("PyTorch3D's CPU rasterizer", "pytorch3d", pytorch3d_index),
    ):
        if importlib.util.find_spec(package) is None:
            lines.append(f"{name}: not measured (no {package})")
            continue
        version = importlib.import_module(package).__version__
        run(vertices[:1], faces, focal, centre, shape)  # the warm-up: one render
        start = time.perf_counter()
        theirs = run(vertices, faces, focal, centre, shape)
        rate = batch / (time.perf_counter() - start)
        same = float((theirs == index).double().mean())
        lines.append(
            f"{name}, {version}: {rate:.1f} renders/s, we {ours / rate:.0f} times as many; "
            f"{same:.7f} of the pixels show our face"
        )
    return "\n     ".join(lines)


def ray_casting(
    vertices: Tensor, faces: Tensor, focal: Tensor, centre: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Face index [B, H, W] by open3d's RaycastingScene: a new tree a render, since the shape changes."""
    import open3d  # not a door of the package: a comparison

    threads = torch.get_num_threads()
    x, y = torch.meshgrid(*(torch.arange(n) + 0.5 for n in (shape[1], shape[0])), indexing="xy")
    ray = torch.stack(
        [(x - centre[0, 0]) / focal[0], -(y - centre[0, 1]) / focal[0], -torch.ones_like(x)], -1
    )
    rays = open3d.core.Tensor(torch.cat([torch.zeros_like(ray), ray], -1).numpy())
    triangles = open3d.core.Tensor(faces.numpy().astype("uint32"))
    index = torch.empty(len(vertices), *shape, dtype=torch.int64)
    for i, item in enumerate(vertices.numpy()):
        tree = open3d.t.geometry.RaycastingScene(nthreads=threads)
        tree.add_triangles(open3d.core.Tensor(item), triangles)
        hit = tree.cast_rays(rays, nthreads=threads)["primitive_ids"].numpy().astype("int64")
        index[i] = torch.from_numpy(hit)
    return torch.where(index == 2**32 - 1, -1, index)


def pytorch3d_index(
    vertices: Tensor, faces: Tensor, focal: Tensor, centre: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Face index [B, H, W] by PyTorch3D: x left, y up, z forward, the shorter side from -1 to 1."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    batch, half = len(vertices), min(shape) / 2
    xy, depth = camera.project(vertices, focal[:batch], centre[:batch])
    middle = torch.tensor([shape[1] / 2, shape[0] / 2])
    screen = torch.cat([(middle - xy) / half, depth[..., None]], -1)
    meshes = Meshes(list(screen), [faces] * batch)
    index = rasterize_meshes(meshes, shape, blur_radius=0, faces_per_pixel=1, perspective_correct=True)[0]
    first = len(faces) * torch.arange(batch)[:, None, None]  # faces are counted through the batch
    return torch.where(index[..., 0] < 0, -1, index[..., 0] - first)


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
        for shape in ((64, 64), (80, 100), (128, 128)):
            print(peers(144, shape, repeats), flush=True)
    for subdivisions in (4, 6):
        vertices, faces, focal, centre, shape = scene(1, subdivisions, 512, device)
        arguments_of_one = (vertices[0], faces, focal[0], centre[0], shape)
        best = seconds(lambda a=arguments_of_one: coverage(*a), repeats, device)[0]
        print(f"   1 x 512^2, {len(faces):6d} faces: coverage {best * 1e3:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
