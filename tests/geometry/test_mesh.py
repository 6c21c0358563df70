"""mesh.py: the template, its texture coordinates, normals, sampling, and OBJ files read back."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ntdm.geometry import mesh, obj


@pytest.mark.parametrize("subdivisions", [0, 1, 3])
def test_icosphere_is_a_closed_outward_unit_sphere(subdivisions):
    sphere = mesh.icosphere(subdivisions)
    assert sphere.vertices.shape == (10 * 4**subdivisions + 2, 3)
    assert sphere.faces.shape == (20 * 4**subdivisions, 3)
    torch.testing.assert_close(sphere.vertices.norm(dim=1), torch.ones(len(sphere.vertices)))
    directed = Counter((a, b) for f in sphere.faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True))
    assert set(directed.values()) == {1}
    assert all((b, a) in directed for a, b in directed)
    normals = mesh.vertex_normals(sphere.vertices[None], sphere.faces)[0]
    assert (normals * sphere.vertices).sum(1).min() > 0.98


def test_icosphere_is_left_right_symmetric_and_nested():
    coarse, fine = mesh.icosphere(2).vertices, mesh.icosphere(3).vertices
    torch.testing.assert_close(fine[: len(coarse)], coarse)
    mirrored = torch.cdist(fine * torch.tensor([-1.0, 1.0, 1.0]), fine).min(1).values
    assert mirrored.max() < 1e-3


def test_icosphere_refuses_nonsense():
    with pytest.raises(ValueError, match="subdivisions is 9"):
        mesh.icosphere(9)


def test_sphere_uv_known_points():
    points = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [0, -2, 0]])
    expected = torch.tensor([[0, 0.5], [0.25, 0.5], [0.5, 0.5], [0.75, 0.5], [0, 0], [0, 1], [0.75, 0.5]])
    torch.testing.assert_close(mesh.sphere_uv(points), expected, atol=1e-6, rtol=0)


def test_sphere_uv_stays_below_one_and_is_differentiable_everywhere():
    points = torch.tensor([[1.0, -1e-9, 0], [0, 0, 1], [0, 0, -1], [1, 0, 0]], requires_grad=True)
    uv = mesh.sphere_uv(points)
    assert uv[:, 0].min() >= 0
    assert uv[:, 0].max() < 1
    uv.sum().backward()
    assert torch.isfinite(points.grad).all()
    inside = torch.nn.functional.normalize(torch.randn(8, 3, dtype=torch.float64), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(mesh.sphere_uv, inside)


def test_sphere_tangents_follow_uv():
    points = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    du, dv = mesh.sphere_tangents(points)
    step = 1e-5
    along_u = (mesh.sphere_uv(points + step * du) - mesh.sphere_uv(points) + 0.5) % 1 - 0.5
    along_v = mesh.sphere_uv(points + step * dv) - mesh.sphere_uv(points)
    radius = points[:, :2].norm(dim=1)
    torch.testing.assert_close(
        along_u[:, 0] * radius, torch.full((50,), step / (2 * math.pi)).double(), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(along_v[:, 1], torch.full((50,), step / math.pi).double(), rtol=1e-3, atol=0)
    frame = torch.stack([du, dv, -points], 1)
    torch.testing.assert_close(torch.linalg.det(frame), torch.ones(50).double())


def test_sphere_tangents_at_the_poles_are_unit():
    du, dv = mesh.sphere_tangents(torch.tensor([[0.0, 0, 1], [0, 0, -1]]))
    torch.testing.assert_close(torch.stack([du, dv]).norm(dim=-1), torch.ones(2, 2))
    torch.testing.assert_close((du * dv).sum(-1), torch.zeros(2))


def test_vertex_normals_of_a_scaled_batch_and_their_gradient():
    sphere = mesh.icosphere(1)
    batch = torch.stack([sphere.vertices, sphere.vertices * torch.tensor([1.0, 2.0, 3.0])]).double()
    normals = mesh.vertex_normals(batch, sphere.faces)
    assert (normals.norm(dim=-1) - 1).abs().max() < 1e-9
    torch.testing.assert_close(normals[0], mesh.vertex_normals(batch[:1], sphere.faces)[0])
    assert torch.autograd.gradcheck(
        lambda x: mesh.vertex_normals(x, sphere.faces), batch[:, :].clone().requires_grad_(), fast_mode=True
    )


def test_sample_surface_is_uniform_by_area():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0], [9, 9, 9]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 6, 6]])  # areas 0.5, 1.5, 0
    points = mesh.sample_surface(vertices, faces, 20000, torch.Generator().manual_seed(0))
    assert points[:, 2].abs().max() == 0
    # A share of 0.75 of 20,000 draws: 4 standard deviations are 0.012.
    assert abs((points[:, 0] > 3).float().mean().item() - 0.75) < 0.012
    torch.testing.assert_close(
        points[points[:, 0] < 3][:, :2].mean(0), torch.full((2,), 1 / 3), atol=0.02, rtol=0
    )
    with pytest.raises(ValueError, match="no area"):
        mesh.sample_surface(vertices, faces[2:], 5)


def test_write_obj_round_trip(tmp_path):
    sphere = mesh.icosphere(2)
    texture = np.zeros((16, 16, 3), np.uint8)
    texture[:8] = (200, 30, 30)
    path = obj.write_obj(tmp_path / "a.obj", sphere.vertices * 2, sphere.faces, sphere.vertices, texture)
    lines = [line.split() for line in path.read_text().splitlines()]
    vt = np.array([line[1:] for line in lines if line[0] == "vt"], float)
    corners = np.array([[c.split("/") for c in line[1:]] for line in lines if line[0] == "f"], int) - 1
    vertices = np.array([line[1:] for line in lines if line[0] == "v"], float)
    np.testing.assert_allclose(vertices, sphere.vertices.numpy() * 2, atol=1e-6)
    assert (corners[..., 0] == sphere.faces.numpy()).all()
    u = vt[corners[..., 1]][..., 0]
    assert (u.max(1) - u.min(1)).max() < 0.5  # nothing runs backwards round the sphere
    uv = mesh.sphere_uv(sphere.vertices).numpy()[corners[..., 0]]
    off_pole = np.abs(uv[..., 1] - 0.5) < 0.499
    np.testing.assert_allclose((u % 1)[off_pole], uv[..., 0][off_pole], atol=2e-6)
    np.testing.assert_allclose(1 - vt[corners[..., 1]][..., 1], uv[..., 1], atol=2e-6)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == texture).all()
    assert "map_Kd a.png" in (tmp_path / "a.mtl").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mtl", "a.obj", "a.png"]


def test_write_obj_refuses_bad_input(tmp_path):
    sphere = mesh.icosphere(0)
    with pytest.raises(ValueError, match="uint8"):
        obj.write_obj(tmp_path / "a.obj", sphere.vertices, sphere.faces, sphere.vertices, np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="not finite"):
        obj.write_plain_obj(tmp_path / "b.obj", sphere.vertices * math.nan, sphere.faces)
    with pytest.raises(ValueError, match=r"want int64 \[F, 3\]"):
        mesh.Mesh(sphere.vertices, sphere.faces.int())
    assert not (tmp_path / "b.obj").exists()


def test_a_box_is_around_the_vertices_that_faces_use():
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 4, -1], [9, 9, 9]], np.float64)
    triangle = mesh.as_mesh((vertices, np.array([[0, 1, 2]], np.int32)))
    assert triangle.vertices.dtype == torch.float32 and triangle.faces.dtype == torch.int64
    low, high = mesh.bounding_box(triangle)
    assert low.tolist() == [0, 0, -1] and high.tolist() == [2, 4, 0]
    assert mesh.box_centre(triangle).tolist() == [1, 2, -0.5]
