"""The CUDA sources with a thread for every lane, against the same sources with teams of one lane.

What the one-lane build (the fixture `device`) cannot see: lanes that take the pixel or channel of another,
that miss a ballot, or that wait for one which has left.
"""

import ctypes
import subprocess
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.geometry import camera, mesh
from ntdm.ops import build, kernels, soft_silhouette, texture_lookup, texture_update, uv_scatter

REGISTERED_BY = (soft_silhouette, texture_lookup, texture_update, uv_scatter)
ops = torch.ops.ntdm


@pytest.fixture(scope="session")
def threaded_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler, library = build.CPU.compiler(), tmp_path_factory.mktemp("kernels") / "libntdm_lanes.so"
    if compiler is None:
        pytest.skip("no C++ compiler")
    flags = ("-x", "c++", "-O1", "-std=c++17", "-DNTDM_THREAD_LANES", "-pthread", "-fPIC", "-shared")
    subprocess.run([compiler, *flags, *map(str, build.CUDA.sources()), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def both(host_kernels, threaded_kernels, monkeypatch) -> Callable[..., None]:
    """Calls a function with each library and compares the tensors it returns."""

    def compare(run: Callable[[], tuple[Tensor, ...]], tolerance: float = 1e-12) -> None:
        results = []
        for library in (host_kernels, threaded_kernels):
            build_of = kernels.Target(lambda library=library: library, cuda=True)
            monkeypatch.setattr(kernels, "target", lambda data, build_of=build_of: build_of)
            results.append(run())
        for one, many in zip(*results, strict=True):
            if not one.is_floating_point():
                assert torch.equal(one, many)
            else:
                scale = one[one.isfinite()].abs().max().clamp(min=1.0)
                torch.testing.assert_close(many, one, rtol=tolerance, atol=tolerance * float(scale))

    return compare


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_uv_scatter(both):
    # Neighbouring quads overlap here and there; 37 channels leave lanes of the second round without one.
    ticks = torch.arange(5, dtype=torch.float64) * 0.06
    uv = torch.stack(torch.meshgrid(ticks + 0.85, ticks + 0.2, indexing="xy"), -1)[None] + 0.01 * randn(
        1, 5, 5, 2
    )
    coverage = torch.ones(1, 5, 5, dtype=torch.bool)
    features, grad = randn(1, 5, 5, 37), randn(1, 24, 24, 37)
    both(lambda: ops.uv_scatter(features, uv, coverage, 24, 0.2))
    weight = ops.uv_scatter(features, uv, coverage, 24, 0.2)[1]
    both(lambda: ops.uv_scatter_backward(grad, features, uv, coverage, weight, 0.2, True, True))


def test_rasterize_and_soft_silhouette(both):
    sphere = mesh.icosphere(0)
    viewpoint = torch.tensor([[0.3, 0.4, 0.2, 4.0]], dtype=torch.float64)
    vertices = camera.cam_from_obj(0.6 * sphere.vertices.double()[None], viewpoint)
    focal, centre = torch.full((1,), 40.0).double(), torch.tensor([[9.2, 5.1]], dtype=torch.float64)
    given = (vertices, sphere.faces, focal, centre)
    both(lambda: ops.rasterize(*given, 11, 18))
    barycentric, depth, index, _ = ops.rasterize(*given, 11, 18)
    maps = (index, barycentric, depth, randn(1, 11, 18, 3), randn(1, 11, 18))
    both(lambda: ops.rasterize_backward(*given, *maps))
    attributes, grad = randn(1, 12, 11), randn(1, 11, 18, 11)
    both(lambda: ops.interpolate_backward(grad, attributes, sphere.faces, index, barycentric, True))
    both(lambda: ops.soft_silhouette(*given, index, 1.0, 3.0))
    soft = ops.soft_silhouette(*given, index, 1.0, 3.0)[0]
    both(lambda: ops.soft_silhouette_backward(*given, index, soft, randn(1, 11, 18), 1.0, 3.0))


def test_texture_lookup_and_update(both):
    texture, seen = normalize(randn(1, 5, 5, 3, 37), dim=-1), (randn(1, 5, 5, 3) > -0.4).double()
    place, alpha = randn(9, 2), randn(9, 3).softmax(-1)
    which = torch.zeros(9, dtype=torch.int64)

    target = randn(9, 37)

    def update() -> tuple[Tensor, ...]:
        theta, marks = texture[0].flatten(0, 1).clone(), seen[0].flatten(0, 1).clone()
        ops.texture_update(theta, marks, torch.arange(0, 18, 2), randn(9, 37), alpha, 0.1, 0.05)
        return theta, marks

    given = (texture, seen, which, place, alpha)
    both(lambda: ops.texture_lookup(*given))
    both(lambda: ops.texture_similarity(*given, target, None, True))
    both(update)
