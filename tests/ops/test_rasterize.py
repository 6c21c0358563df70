"""rasterize.py: the kernels against hand-computed pictures, the torch reference and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from ntdm.geometry import camera, mesh
from ntdm.geometry.camera_np import NEAR
from ntdm.ops.fragments import Fragments
from ntdm.ops.interpolate import interpolate
from ntdm.ops.rasterize import coverage, rasterize, rasterize_reference
from ntdm.ops.soft_silhouette import soft_silhouette, soft_silhouette_reference

Scene = tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, int]]


def scene(
    batch: int = 2, subdivisions: int = 1, size: tuple[int, int] = (13, 18), dtype=torch.float64
) -> Scene:
    """Ellipsoids in random poses, on a map that is not square, with a part outside the picture."""
    sphere = mesh.icosphere(subdivisions)
    generator = torch.Generator().manual_seed(3)
    device = torch.get_default_device()
    scaled = sphere.vertices.to(device, dtype) * torch.tensor([0.6, 0.35, 0.5], dtype=dtype)
    viewpoint = torch.rand(batch, 4, generator=generator, dtype=dtype, device="cpu").to(device) * 2
    viewpoint[:, 3] = 4
    vertices = camera.cam_from_obj(scaled.expand(batch, -1, -1), viewpoint)
    focal = torch.linspace(38, 50, batch, dtype=dtype)
    centre = torch.tensor([size[1] / 2 - 3.2, size[0] / 2 + 1.1], dtype=dtype).repeat(batch, 1)
    return vertices, sphere.faces.to(device), focal, centre, size


def flat(corners: list[tuple[float, float]], depth: float = 1.0, dtype=torch.float32) -> Tensor:
    """Vertices whose projection, with focal 1 and principal point 0, is at these pixels."""
    return torch.tensor([[x * depth, -y * depth, -depth] for x, y in corners], dtype=dtype)


def picture(vertices: Tensor, faces: list[list[int]], size: tuple[int, int]) -> Fragments:
    return rasterize(
        vertices[None],
        torch.tensor(faces, dtype=torch.int64).view(-1, 3),
        torch.ones(1, dtype=vertices.dtype),
        torch.zeros(1, 2, dtype=vertices.dtype),
        size,
    )


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


# ---- the fill rule, by hand


@pytest.mark.usefixtures("device")
def test_triangle_by_hand():
    # Corners on the centres of pixels (0, 0), (2, 0), (0, 2); edges are inclusive: six of nine are covered.
    fragments = picture(flat([(0.5, 0.5), (2.5, 0.5), (0.5, 2.5)]), [[0, 1, 2]], (3, 3))
    expected = torch.tensor([[0, 0, 0], [0, 0, -1], [0, -1, -1]])
    assert torch.equal(fragments.face_index[0], expected)
    assert torch.equal(fragments.barycentric[0, 1, 0], torch.tensor([0.5, 0, 0.5]))
    assert torch.equal(fragments.barycentric[0, 2, 2], torch.zeros(3))
    assert torch.equal(fragments.depth[0], torch.where(expected < 0, torch.inf, 1.0))


@pytest.mark.usefixtures("device")
def test_barycentric_is_perspective_correct():
    # Half way in the picture between depths 1 and 3 is a quarter of the way in space: 1/d is linear there.
    corners = torch.cat([flat([(0.5, 0.5)], 1), flat([(4.5, 0.5)], 3), flat([(0.5, 4.5)], 1)])
    fragments = picture(corners, [[0, 1, 2]], (5, 5))
    torch.testing.assert_close(fragments.barycentric[0, 0, 2], torch.tensor([0.75, 0.25, 0.0]))
    torch.testing.assert_close(fragments.depth[0, 0, 2], torch.tensor(1.5))


@pytest.mark.usefixtures("device")
def test_winding_does_not_matter():
    corners = flat([(0.5, 0.5), (2.5, 0.5), (0.5, 2.5)])
    one, other = picture(corners, [[0, 1, 2]], (3, 3)), picture(corners, [[0, 2, 1]], (3, 3))
    assert torch.equal(one.face_index, other.face_index)
    assert torch.equal(one.barycentric, other.barycentric[..., [0, 2, 1]])


@pytest.mark.usefixtures("device")
def test_shared_edges_leave_no_hole_and_the_lower_index_wins():
    # A square of 2 x 2 cells at one depth, rotated so that edges cut pixels anyhow; every centre is covered.
    grid = torch.tensor([(x, y) for y in (-9.0, 0.3, 9.0) for x in (-9.0, -0.4, 9.0)])
    turn = torch.tensor([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    vertices = flat([(float(x), float(y)) for x, y in grid @ turn.T + 5.0], depth=2.0)
    cells = [[a, a + 1, a + 4, a + 3] for a in (0, 1, 3, 4)]
    faces = [triangle for a, b, c, d in cells for triangle in ([a, b, c], [a, c, d])]
    index = picture(vertices, faces, (10, 10)).face_index
    assert (index >= 0).all()
    doubled = picture(vertices, faces + faces, (10, 10)).face_index
    assert torch.equal(doubled, index)
    # A centre exactly on an edge shared by faces 0 and 1, at equal depth, belongs to face 0 in either order.
    square = flat([(0, 0), (4, 0), (4, 4), (0, 4)], depth=0.7)
    for order in ([[0, 1, 2], [0, 2, 3]], [[0, 2, 3], [0, 1, 2]]):
        assert (picture(square, order, (4, 4)).face_index[0].diagonal() == 0).all()


@pytest.mark.usefixtures("device")
def test_the_nearest_face_wins():
    near, far = flat([(0, 0), (9, 0), (0, 9)], 1.0), flat([(0, 0), (9, 0), (0, 9)], 2.0)
    fragments = picture(torch.cat([far, near]), [[0, 1, 2], [3, 4, 5]], (3, 3))
    assert (fragments.face_index == 1).all() and (fragments.depth == 1).all()


@pytest.mark.usefixtures("device")
def test_near_plane_and_nan_drop_the_face_and_count_it():
    square = [(0.0, 0.0), (9.0, 0.0), (0.0, 9.0)]
    corners = torch.cat([flat(square, 1.0, torch.float64), flat(square, 2.0, torch.float64)])
    for z in (math.nan, math.inf, -math.inf, -NEAR, -NEAR / 2, 1.0):
        spoilt = corners.clone()
        spoilt[1, 2] = z
        fragments = picture(spoilt, [[0, 1, 2], [3, 4, 5]], (3, 3))
        assert fragments.dropped.tolist() == [1], z
        assert (fragments.face_index == 1).all(), z
    assert picture(corners, [[0, 1, 2], [3, 4, 5]], (3, 3)).dropped.tolist() == [0]


@pytest.mark.usefixtures("device")
def test_lines_and_points_cover_nothing():
    corners = flat([(0.5, 0.5), (2.5, 2.5), (1.5, 1.5)])
    assert (picture(corners, [[0, 1, 2], [0, 0, 1], [2, 2, 2]], (3, 3)).face_index == -1).all()


@pytest.mark.usefixtures("device")
def test_huge_and_far_off_triangles():
    corners = torch.cat([flat([(-1e7, -1e6), (1e7, -1e6), (0, 1e7)]), flat([(1e5, 0), (1e6, 0), (1e5, 9)])])
    fragments = picture(corners, [[3, 4, 5], [0, 1, 2]], (40, 70))
    assert (fragments.face_index == 1).all()
    torch.testing.assert_close(fragments.barycentric.sum(-1), torch.ones(1, 40, 70))


# ---- kernel = reference


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [(13, 18), (70, 5), (1, 1)])
def test_kernels_equal_the_reference(dtype, tolerance, size):
    # Measured on AVX-512: float64 2e-14, float32 3e-6 (values), relative to the largest gradient 4e-6.
    vertices, faces, focal, centre, size = scene(3, 2, size)
    inputs = leaves(*(tensor.to(dtype) for tensor in (vertices, focal, centre)))
    exact = leaves(*(tensor.detach().double() for tensor in inputs))
    results = []
    for function, soft_function, (v, f, c) in (
        (rasterize, soft_silhouette, inputs),
        (rasterize_reference, soft_silhouette_reference, exact),
    ):
        fragments = function(v, faces, f, c, size)
        silhouette = soft_function(v, faces, f, c, fragments)
        generator = torch.Generator().manual_seed(0)
        loss = torch.zeros((), dtype=v.dtype)
        for value in (fragments.barycentric, fragments.depth, silhouette.soft):
            drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64, device="cpu")
            weight = drawn.to(v)
            loss = loss + (torch.where(torch.isfinite(value), value, 0) * weight).sum()
        results.append((fragments, silhouette, torch.autograd.grad(loss, (v, f, c))))
    (ours, our_soft, our_gradient), (theirs, their_soft, their_gradient) = results
    assert torch.equal(ours.face_index, theirs.face_index)
    assert torch.equal(ours.dropped, theirs.dropped)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(ours.barycentric.double(), theirs.barycentric, **close)
    torch.testing.assert_close(ours.depth.double(), theirs.depth, **close)
    torch.testing.assert_close(our_soft.soft.double(), their_soft.soft, **close)
    # Two faces share the nearest edge as often as not: the point is unique, the face is not.
    assert torch.equal(our_soft.nearest_face >= 0, their_soft.nearest_face >= 0)
    points = []
    for fragments, soft, _ in results:
        nearest = fragments._replace(
            face_index=soft.nearest_face, barycentric=soft.nearest_barycentric.double()
        )
        points.append(interpolate(vertices, faces, nearest))
    torch.testing.assert_close(points[0], points[1], rtol=tolerance, atol=10 * tolerance)
    for ours_one, theirs_one in zip(our_gradient, their_gradient, strict=True):
        scale = theirs_one.abs().max().clamp(min=1e-9)
        torch.testing.assert_close(ours_one.double() / scale, theirs_one / scale, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("sigma", [0.4, 2.5])
def test_soft_silhouette_by_formula(sigma):
    # One triangle whose right edge is the line x = 3.5, so that d is known for every pixel.
    corners = flat([(3.5, -60), (3.5, 60), (-60, 0)], dtype=torch.float64)
    fragments = picture(corners, [[0, 1, 2]], (4, 16))
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    silhouette = soft_silhouette(corners[None], faces, one, zero, fragments, sigma)
    d = torch.arange(16, dtype=torch.float64) - 3
    expected = torch.where(d > 0, torch.exp(-((d / sigma) ** 2)) * (d <= 3 * sigma), 1.0)
    torch.testing.assert_close(silhouette.soft[0], expected.expand(4, 16), rtol=1e-12, atol=1e-12)
    assert torch.equal(silhouette.nearest_face[0, 0] == 0, (d > 0) & (d <= 3 * sigma))
    torch.testing.assert_close(silhouette.nearest_barycentric[0, 0, 4, 2], zero[0, 0])


@pytest.mark.usefixtures("device")
def test_soft_gradient_is_the_derivative():
    vertices, faces, focal, centre, size = scene(1)
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(vertices.shape, generator=generator, dtype=torch.float64, device="cpu")
    direction = drawn.to(vertices.device)

    def total(step: float) -> Tensor:
        moved = vertices + step * direction
        fragments = rasterize(moved, faces, focal, centre, size)
        return soft_silhouette(moved, faces, focal, centre, fragments).soft.sum()

    (leaf,) = leaves(vertices)
    fragments = rasterize(leaf, faces, focal, centre, size)
    soft_silhouette(leaf, faces, focal, centre, fragments).soft.sum().backward()
    # 1e-6 units move no pixel in or out of the outline, nor a face over the edge of the reach, in this scene.
    measured = (total(1e-6) - total(-1e-6)) / 2e-6
    torch.testing.assert_close((leaf.grad * direction).sum(), measured, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("device")
def test_the_soft_rim_pulls_the_outline_outwards():
    # Asking for more silhouette moves the principal point towards the empty side.
    corners = flat([(1, 1), (3, 1), (2, 7)], dtype=torch.float64)[None]
    one, (zero,) = torch.ones(1, dtype=torch.float64), leaves(torch.zeros(1, 2, dtype=torch.float64))
    faces = torch.tensor([[0, 1, 2]])
    fragments = rasterize(corners, faces, one, zero, (8, 12))
    soft_silhouette(corners, faces, one, zero, fragments).soft[..., 4:].sum().backward()
    assert zero.grad is not None and zero.grad[0, 0] > 0.1


@pytest.mark.usefixtures("device")
def test_gradcheck():
    vertices, faces, focal, centre, size = scene(2, 0, (6, 7))
    fragments = rasterize(vertices, faces, focal, centre, size)
    attributes = torch.randn(2, vertices.shape[1], 2, dtype=torch.float64)

    def raster(v, f, c):
        result = rasterize(v, faces, f, c, size)
        return result.barycentric, torch.where(result.face_index >= 0, result.depth, 0)

    def soft(v, f, c):
        return soft_silhouette(v, faces, f, c, fragments).soft

    def mix(a, w):
        return interpolate(a, faces, fragments._replace(barycentric=w))

    assert torch.autograd.gradcheck(raster, leaves(vertices, focal, centre))
    assert torch.autograd.gradcheck(soft, leaves(vertices, focal, centre))
    assert torch.autograd.gradcheck(mix, leaves(attributes, fragments.barycentric))
    assert torch.autograd.gradcheck(mix, leaves(attributes[:1], fragments.barycentric))


@pytest.mark.usefixtures("device")
def test_interpolate_is_the_weighted_sum():
    vertices, faces, focal, centre, size = scene()
    fragments = rasterize(vertices, faces, focal, centre, size)
    attributes = torch.randn(2, vertices.shape[1], 5, dtype=torch.float64)
    covered = fragments.face_index >= 0
    batch = torch.arange(2)[:, None, None, None]
    corner = attributes[batch, faces[fragments.face_index]]
    expected = (corner * fragments.barycentric[..., None]).sum(-2) * covered[..., None]
    torch.testing.assert_close(interpolate(attributes, faces, fragments), expected, rtol=1e-13, atol=1e-13)
    # The vertices themselves, interpolated, are the points that the rays hit.
    hit = interpolate(vertices, faces, fragments)[covered]
    torch.testing.assert_close(-hit[:, 2], fragments.depth[covered])


# ---- the operators as torch sees them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    vertices, faces, focal, centre, size = scene(2, 0, (6, 7), dtype)
    fragments = rasterize(vertices, faces, focal, centre, size)
    v, f, c = leaves(vertices, focal, centre)
    operators = torch.ops.ntdm
    torch.library.opcheck(operators.rasterize, (v, faces, f, c, *size))
    torch.library.opcheck(operators.soft_silhouette, (v, faces, f, c, fragments.face_index, 1.0, 3.0))
    (a,) = leaves(vertices)
    torch.library.opcheck(
        operators.interpolate, (a, faces, fragments.face_index, fragments.barycentric.detach())
    )


@pytest.mark.usefixtures("device")
def test_second_derivative_is_refused():
    vertices, faces, focal, centre, size = scene(1, 0, (6, 7))
    (v,) = leaves(vertices)
    fragments = rasterize(v, faces, focal, centre, size)
    covered = fragments.face_index >= 0
    values = {
        "rasterize": fragments.depth[covered],
        "interpolate": interpolate(v, faces, fragments._replace(barycentric=fragments.barycentric.detach())),
        "soft_silhouette": soft_silhouette(v, faces, focal, centre, fragments).soft,
    }
    for value in values.values():
        (first,) = torch.autograd.grad(value.square().sum(), v, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()


@pytest.mark.usefixtures("device")
def test_strides_and_threads_do_not_matter():
    vertices, faces, focal, centre, size = scene(5, 2)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3, 16):
            torch.set_num_threads(count)
            for first in (0, 4):  # five items, then one: a thread an item, then rows in bands
                (v,) = leaves(vertices[first:])
                strided = v.transpose(1, 2).contiguous().transpose(1, 2)
                arguments = (strided, faces.t().contiguous().t(), focal[first:], centre[first:])
                fragments = rasterize(*arguments, size)
                soft = soft_silhouette(*arguments, fragments).soft
                (soft.transpose(1, 2) ** 2).sum().backward()
                results.append((first, fragments.face_index, fragments.depth, soft.detach(), v.grad))
    finally:
        torch.set_num_threads(threads)
    for first, *values in results:
        for value, expected in zip(values, results[0][1:], strict=True):
            assert torch.equal(value, expected[first:])


@pytest.mark.usefixtures("device")
def test_empty_inputs():
    vertices, faces, focal, centre, size = scene()
    none = rasterize(vertices[:0], faces, focal[:0], centre[:0], size)
    assert none.barycentric.shape == (0, *size, 3)
    assert soft_silhouette(vertices[:0], faces, focal[:0], centre[:0], none).soft.shape == (0, *size)
    (shared,) = leaves(vertices[:1])
    interpolate(shared, faces, none).sum().backward()
    assert shared.grad is not None and shared.grad.shape == (1, *vertices.shape[1:]) and not shared.grad.any()
    bare = rasterize(vertices, faces[:0], focal, centre, size)
    assert (bare.face_index == -1).all() and bare.dropped.tolist() == [0, 0]
    (v,) = leaves(vertices)
    soft = soft_silhouette(v, faces[:0], focal, centre, bare).soft
    soft.sum().backward()
    assert (soft == 0).all() and v.grad is not None and (v.grad == 0).all()
    flat_map = rasterize(vertices, faces, focal, centre, (0, 7))
    assert flat_map.depth.shape == (2, 0, 7)


@pytest.mark.usefixtures("device")
def test_coverage_is_the_mask():
    vertices, faces, focal, centre, size = scene()
    expected = rasterize(vertices, faces, focal, centre, size).face_index[1] >= 0
    assert torch.equal(coverage(vertices[1], faces, focal[1], centre[1], size), expected)


def test_bad_input_is_a_sentence():
    v, faces, f, c, size = scene()
    fragments = rasterize(v, faces, f, c, size)
    for arguments, message in (
        ((v[0], faces, f, c, size), r"vertices_cam must be \[B, V, 3\]"),
        ((v.half(), faces, f, c, size), "float32 or float64"),
        ((v, faces.int(), f, c, size), r"faces must be \[F, 3\] int64"),
        ((v, faces[:, :2], f, c, size), r"faces must be \[F, 3\] int64"),
        ((v, faces, f.float(), c, size), "focal must be"),
        ((v, faces, f, c[:1], size), "principal_point must be"),
        ((v, faces + 1, f, c, size), "faces name vertex 42, but there are 42 vertices"),
        ((v, faces - 1, f, c, size), "faces name vertex -1"),
        ((v, faces, f, c, (-1, 3)), "size must be"),
        ((v.to("meta"), faces, f, c, size), "meta"),
    ):
        with pytest.raises(ValueError, match=message):
            rasterize(*arguments)
    with pytest.raises(ValueError, match="sigma must be a positive number"):
        soft_silhouette(v, faces, f, c, fragments, 0.0)
    with pytest.raises(ValueError, match="same batch"):
        soft_silhouette(v[:1], faces, f[:1], c[:1], fragments)
    with pytest.raises(ValueError, match="attributes is on meta, the fragments on cpu"):
        interpolate(v.to("meta"), faces, fragments)
    with pytest.raises(ValueError, match="faces is on meta, vertices_cam on cpu"):
        rasterize(v, faces.to("meta"), f, c, size)
    with pytest.raises(ValueError, match="backend must be one of"):
        soft_silhouette(v, faces, f, c, fragments, backend="other")
    with pytest.raises(ValueError, match="attributes must be"):
        interpolate(v[0], faces, fragments)
    with pytest.raises(ValueError, match=r"the fragments torch\.float64"):
        interpolate(v.float(), faces, fragments)
    with pytest.raises(ValueError, match="interpolate: faces name vertex"):
        interpolate(v, faces + 1, fragments)
    with pytest.raises(ValueError, match=r"interpolate: fragments name face \d+, but there are 3 faces"):
        interpolate(v, faces[:3], fragments)
    with pytest.raises(ValueError, match=r"interpolate: barycentric must be \[2, 13, 18, 3\] as face_index"):
        interpolate(v, faces, fragments._replace(barycentric=fragments.barycentric[:, :5]))
    short = fragments._replace(face_index=fragments.face_index.int())
    for function in (
        lambda: interpolate(v, faces, short),
        lambda: soft_silhouette(v, faces, f, c, short),
    ):
        with pytest.raises(ValueError, match=r"face_index must be \[B, H, W\] int64"):
            function()
    with pytest.raises(ValueError, match=r"vertices_cam, .* has 6442450944 elements: want 2147483648"):
        rasterize(v[:1, :1].expand(2, 2**30, 3), faces, f, c, size)
    with pytest.raises(ValueError, match=r"barycentric, .* has 2147520000 elements: want 2147483648 at most"):
        rasterize(v, faces, f, c, (20000, 17896))
    with pytest.raises(ValueError, match=r"the result, .* has 2147483988 elements"):
        interpolate(v[:, :, :1].expand(-1, -1, 4588641), faces, fragments)
