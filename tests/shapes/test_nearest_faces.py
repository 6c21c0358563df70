"""nearest_faces.py: open3d's BVH and Kaolin against brute force and each other; fits on either device."""

import dataclasses
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

import fake_kaolin
from pretended_cuda import pretended_cuda

pytest.importorskip("open3d")  # a machine with a GPU may have torch alone

from ntdm import fit_shapes
from ntdm.config.stages import ShapeConfig
from ntdm.geometry import mesh
from ntdm.shapes import fit, nearest_faces, surface_loss
from ntdm.shapes.files import load_shape
from ntdm.shapes.nearest_faces import foot_weights, points_on_faces
from ntdm.shapes.visible_surface import visible_surfaces
from simple_cads import box, ellipsoid, join, seen

SMALL = ShapeConfig(
    subdivisions=1, width=16, layers=2, frequencies=2, steps=3, network_steps=3, surface_samples=90
)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kaolin's point_to_mesh_distance as its manual describes it."""
    fake_kaolin.install(monkeypatch, "kaolin.metrics.trianglemesh")
    nearest_faces.missing.cache_clear()
    yield
    nearest_faces.missing.cache_clear()


@pytest.fixture(params=["open3d", "stand-in", pytest.param("kaolin", marks=pytest.mark.gpu)])
def find(request: pytest.FixtureRequest):
    """What finds nearest faces of (vertices, faces) pairs: the results are on the CPU."""
    if request.param == "open3d":
        return lambda meshes, points: nearest_faces.nearest_faces(meshes, 1.0)(points)
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
        return lambda meshes, points: nearest_faces._Kaolin(meshes)(points)
    nearest_faces.missing.cache_clear()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if reason := nearest_faces.missing():
        pytest.skip(f"Kaolin: {reason}")

    def on_cuda(meshes, points):
        moved = [(v.cuda(), f.cuda()) for v, f in meshes]
        return tuple(x.cpu() for x in nearest_faces.nearest_faces(moved, 1.0)(points.cuda()))

    return on_cuda


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Iterator[str]:
    """A CUDA device with Kaolin, or a CPU that says it is one, with the stand-in."""
    if request.param == "pretended":
        request.getfixturevalue("stand_in")
        with pretended_cuda():
            yield "cuda:0"
        return
    nearest_faces.missing.cache_clear()
    if not torch.cuda.is_available() or nearest_faces.missing():
        pytest.skip("no CUDA device with Kaolin")
    yield "cuda:0"


def tensors(cad) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(cad[0]), torch.from_numpy(cad[1].astype(np.int64))


def test_nearest_faces_are_those_of_brute_force(find):
    meshes = [
        tensors(ellipsoid(0.3, 0.4, 0.2, subdivisions=1)),
        tensors(ellipsoid(0.5, 0.2, 0.2, subdivisions=2)),
    ]
    points = 0.6 * torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1))
    face, weights, foot = find(meshes, points)
    assert weights.min() >= -1e-6
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 40))
    for k, (cloud, triangles) in enumerate(meshes):
        again = points_on_faces(cloud[None], triangles[face[k]][None], weights[k][None])[0]
        torch.testing.assert_close(again, foot[k], atol=1e-5, rtol=0)
        # No point of a fine sampling of any face is nearer than the foot.
        a, b = torch.meshgrid(torch.linspace(0, 1, 21), torch.linspace(0, 1, 21), indexing="ij")
        fine = torch.stack([1 - a - b, a, b], -1)[a + b <= 1.0001]
        sampled = torch.einsum("sc,fcd->fsd", fine, cloud[triangles]).reshape(-1, 3)
        distance, best = (points[k] - foot[k]).norm(dim=1), torch.cdist(points[k], sampled).min(1).values
        assert (distance <= best + 1e-5).all()
        assert (best - distance).max() < 0.02


def test_both_find_the_same_feet(find):
    """Of a soup with thin and long faces, and with some that are a line or a point, the first among them."""
    draw = torch.Generator().manual_seed(2)
    vertices = torch.randn(240, 3, generator=draw) * torch.tensor([0.4, 0.3, 0.2])
    vertices[1::3] = vertices[::3] + 0.2 * (vertices[1::3] - vertices[::3])
    vertices[2:60:3] = vertices[1:60:3] + 1e-3 * (vertices[2:60:3] - vertices[1:60:3])
    vertices[2] = vertices[1]
    vertices[100:102] = vertices[99]
    soup = (vertices, torch.arange(240).view(80, 3))
    points = 0.5 * torch.randn(1, 500, 3, generator=draw)
    whole = soup[1][[k for k in range(80) if k not in (0, 33)]]
    _, _, expected = nearest_faces.nearest_faces([(vertices, whole)], 1.0)(points)
    face, weights, foot = find([soup], points)
    assert foot.isfinite().all()
    distance, wanted = ((points - f).norm(dim=2) for f in (foot, expected))
    # open3d also finds the two that have no area; on thin faces float32 places the foot to a few 1e-6.
    assert (distance <= wanted + 1e-5).all()
    assert ((foot - expected).norm(dim=2) < 1e-4).float().mean() > 0.97
    again = points_on_faces(vertices[None], soup[1][face], weights)
    torch.testing.assert_close(again, foot, atol=1e-6, rtol=0)


def test_foot_weights_of_every_kind():
    # An obtuse triangle: beside corner 1 the two edges' strips overlap outside.
    corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [3, 1, 0]])
    points = torch.tensor(
        [
            [1.7, 0.2, 0.5],
            [-1.0, 0.2, 0.3],
            [2.1, -3, 1.0],
            [4.0, 2, 0],
            [1.0, -1, 2],
            [2.6, 0.4, 0],
            [0, 2, 0],
        ]
    )
    weights = foot_weights(points, corners.expand(len(points), 3, 3))
    expected = [[1.7, 0.2, 0], [0, 0, 0], [2, 0, 0], [3, 1, 0], [1, 0, 0], [2.5, 0.5, 0], [0.6, 0.2, 0]]
    torch.testing.assert_close(weights @ corners, torch.tensor(expected))
    assert weights.min() >= 0
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    torch.testing.assert_close(
        foot_weights(torch.tensor([2.0, 1, 0]), line) @ line, torch.tensor([2.0, 0, 0])
    )
    dot = torch.full((3, 3), 0.7)
    torch.testing.assert_close(foot_weights(torch.tensor([2.0, 1, 0]), dot) @ dot, dot[0])


def test_loss_and_derivative_are_the_same_on_both_devices(cuda):
    surfaces = [seen(join(box(0.4, 0.3, 0.2), ellipsoid(0.1, 0.1, 0.4))), seen(ellipsoid(0.3, 0.4, 0.2))]
    sphere = mesh.icosphere(2)
    start = torch.stack([sphere.vertices * torch.tensor(r) for r in ([0.3, 0.2, 0.3], [0.2, 0.4, 0.3])])
    start += torch.tensor([0.013, 0.007, 0.003])  # in the planes of symmetry two feet are equally near
    found = []
    for device in ("cpu", cuda):
        loss_of = surface_loss.ShapeLoss(
            sphere.faces.to(device), surfaces, dataclasses.replace(SMALL, surface_samples=400)
        )
        vertices = start.to(device).requires_grad_()
        draw = loss_of.draw(vertices, torch.Generator().manual_seed(3))
        loss = loss_of.distance(vertices, draw) + loss_of.roughness(vertices)
        (gradient,) = torch.autograd.grad(loss.sum(), vertices)
        found.append((loss.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-4 * float(found[0][1].abs().max()))


def test_a_fit_is_the_same_on_both_devices(cuda, tmp_path):
    cads = {0: ellipsoid(0.2, 0.45, 0.15, subdivisions=2), 1: box(0.2, 0.25, 0.15)}
    surfaces = visible_surfaces("car", cads, SMALL.seed)
    models, latents = [], []
    for name, device in (("cpu", "cpu"), ("cuda", cuda)):
        fit_shapes.run(SMALL, None, tmp_path / name, cads={"car": lambda: cads}, device=device)
        models.append(load_shape(tmp_path / name / "car.safetensors"))
        again = load_shape(tmp_path / "cpu" / "car.safetensors")
        latents.append(fit.fit_latents(again, surfaces, name, SMALL.seed, device, steps=6))
    cpu, other = models
    assert other.offsets.device.type == "cpu"
    with torch.no_grad():
        # Steps are a hundredth of the diagonal; the devices round differently, no more.
        torch.testing.assert_close(other(other.one_hot()), cpu(cpu.one_hot()), atol=1e-4, rtol=0)
    (_, z, history), (model, other_z, other_history) = latents
    assert {model.offsets.device.type, other_z.device.type} == {"cpu"}
    torch.testing.assert_close(other_z, z, atol=0.02, rtol=0)
    assert other_history[0][1] == pytest.approx(history[0][1], rel=1e-3)


def test_cuda_without_kaolin_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(nearest_faces, "missing", lambda: "No module named 'kaolin'")
    sentence = r"distances to meshes on CUDA are Kaolin's, .*No module named 'kaolin'\): use --device cpu"
    with pytest.raises(ValueError, match=sentence):
        fit_shapes.run(SMALL, None, tmp_path / "out", cads={}, device="cuda")
    assert not (tmp_path / "out").exists()


def test_the_placeholder_of_the_package_index_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaolin", ModuleType("kaolin"))  # imports, and holds nothing
    nearest_faces.missing.cache_clear()
    assert nearest_faces.missing() is not None
    nearest_faces.missing.cache_clear()
