"""Neural textures: bins, view directions on the surface, blending and the momentum update, by hand."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from ntdm.geometry.camera import cam_from_obj, camera_centre
from ntdm.geometry.mesh import icosphere, sphere_tangents, sphere_uv
from ntdm.nn.neural_texture import LocalView, NeuralTexture, bin_directions, texel_points

VIEWPOINT = torch.tensor([0.7, 0.4, -0.3, 5.0])


def test_bins_tilt_the_normal_by_60_degrees():
    directions = bin_directions(7)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(directions[0], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(directions[1:, 2], torch.full((6,), 0.5))
    # Around the normal, neighbours are 60 degrees apart; between each other, 51 degrees (method: 5/8).
    torch.testing.assert_close((directions[1:] * directions[1:].roll(1, 0)).sum(1), torch.full((6,), 5 / 8))
    torch.testing.assert_close(directions[1:, :2].sum(0), torch.zeros(2), atol=1e-6, rtol=0)


def test_a_single_bin_looks_along_the_normal():
    torch.testing.assert_close(bin_directions(1), torch.tensor([[0.0, 0.0, 1.0]]))


@pytest.fixture(scope="module")
def sphere_view():
    sphere = icosphere(3)
    return sphere, LocalView(sphere)


def test_a_sphere_sees_the_camera_under_its_normals(sphere_view):
    sphere, local_view = sphere_view
    cam = cam_from_obj(sphere.vertices, VIEWPOINT)[None]
    view = local_view(cam)[0]
    centre = torch.tensor([0.0, 0.0, -VIEWPOINT[3]])
    to_camera = normalize(-cam[0], dim=-1)
    cosine = ((cam[0] - centre) * to_camera).sum(-1)
    torch.testing.assert_close(view.norm(dim=-1), torch.ones(len(view)))
    # Measured at 642 vertices: 0.027 at worst (rings not symmetric about their vertex), 0.007 on average.
    assert (view[:, 2] - cosine).abs().max() < 0.04
    assert (view[:, 2] - cosine).abs().mean() < 0.01
    assert (view[cosine > 0.1, 2] > 0).all()
    # du is the sphere's own tangent (but at the poles, where it turns within a ring); dv completes a
    # right-handed frame, so it points north, against v.
    wide = sphere.vertices[:, 2].abs() < 0.9
    east, south = sphere_tangents(sphere.vertices[wide])
    for axis, tangent in zip(view[wide].T[:2], (east, -south), strict=True):
        turned = cam_from_obj(tangent, VIEWPOINT) - cam_from_obj(torch.zeros(1, 3), VIEWPOINT)
        assert (axis - (turned * to_camera[wide]).sum(-1)).abs().max() < 0.05


def test_a_stretched_sphere_has_its_own_normals(sphere_view):
    sphere, local_view = sphere_view
    half = torch.tensor([0.2, 0.5, 0.3])
    cam = cam_from_obj(sphere.vertices * half, VIEWPOINT)
    normal = normalize(sphere.vertices / half, dim=-1)
    turned = cam_from_obj(normal, VIEWPOINT) - cam_from_obj(torch.zeros(1, 3), VIEWPOINT)
    want = (turned * normalize(-cam, dim=-1)).sum(-1)
    assert (local_view(cam[None])[0, :, 2] - want).abs().max() < 0.05


def test_the_view_belongs_to_the_surface_not_to_the_camera_frame(sphere_view):
    sphere, local_view = sphere_view
    cam = cam_from_obj(sphere.vertices * torch.tensor([0.2, 0.5, 0.3]), VIEWPOINT)
    turn, _ = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    torch.testing.assert_close(local_view(cam @ turn), local_view(cam.expand(2, -1, -1)), atol=1e-4, rtol=0)
    # ... nor on the size of the whole scene, nor on the other meshes of the batch.
    torch.testing.assert_close(local_view(3 * cam[None]), local_view(cam[None]), atol=1e-4, rtol=0)
    both = local_view(torch.stack([cam, 2 * cam + 1]))
    torch.testing.assert_close(both[:1], local_view(cam[None]), atol=1e-5, rtol=0)


def test_the_view_is_the_same_from_the_object_frame(sphere_view):
    sphere, local_view = sphere_view
    vertices = sphere.vertices[None] * torch.tensor([0.2, 0.5, 0.3])
    seen = local_view.seen_from(local_view.frames(vertices), 1.5 * vertices, camera_centre(VIEWPOINT[None]))
    want = local_view(cam_from_obj(1.5 * vertices, VIEWPOINT))
    torch.testing.assert_close(seen, want, atol=1e-4, rtol=0)


def test_the_poles_are_finite_and_have_gradients(sphere_view):
    sphere, local_view = sphere_view
    poles = sphere.vertices[:, 2].abs() > 1 - 1e-6
    assert int(poles.sum()) == 2
    above = torch.tensor([0.0, math.pi / 2, 0.0, 5.0])
    cam = cam_from_obj(sphere.vertices, above)[None].requires_grad_()
    view = local_view(cam)
    assert view.isfinite().all()
    north = sphere.vertices[:, 2].argmax()
    torch.testing.assert_close(view[0, north], torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    view[..., 0].sum().backward()
    assert cam.grad.isfinite().all()


def test_bin_weights_do_not_depend_on_the_length_of_the_view():
    model, view = texture(), torch.tensor([[0.3, -0.2, 0.9], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(model.alpha(view), model.alpha(0.01 * view))
    torch.testing.assert_close(model.alpha(view[1]), torch.full((7,), 1 / 7))
    want = torch.softmax(4 * normalize(view[:1], dim=-1) @ bin_directions(7).T, -1)
    torch.testing.assert_close(model.alpha(view[:1]), want)


def texture(view_bins: int = 7, size: int = 4, dim: int = 5, categories: int = 2) -> NeuralTexture:
    """A texture of random unit features of which a third was never seen."""
    generator = torch.Generator().manual_seed(0)
    model = NeuralTexture(categories, size, view_bins, dim, temperature=4.0)
    model.theta.copy_(normalize(torch.randn(model.theta.shape, generator=generator), dim=-1))
    model.seen.copy_((torch.rand(model.seen.shape, generator=generator) > 0.33).float())
    return model


def test_alpha_is_a_softmax_of_cosines():
    model = NeuralTexture(1, 4, 7, 5, temperature=4.0)
    frontal, grazing = model.alpha(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    total = math.exp(4) + 6 * math.exp(2)
    torch.testing.assert_close(frontal, torch.tensor([math.exp(4) / total] + 6 * [math.exp(2) / total]))
    assert int(grazing.argmax()) == 1  # the bin tilted towards du
    assert float(grazing.sum()) == pytest.approx(1)
    alone = NeuralTexture(1, 4, 1, 5, temperature=4.0).alpha(torch.randn(3, 2, 3))
    torch.testing.assert_close(alone, torch.ones(3, 2, 1))


def test_a_texel_is_what_the_lookup_shows_at_its_centre():
    model, size = texture(), 4
    alpha = torch.softmax(torch.randn(size * size, 7, generator=torch.Generator().manual_seed(1)), -1)
    texels = torch.arange(size * size)
    uv = (torch.stack([texels % size, texels // size], 1) + 0.5) / size
    for category in range(2):
        feature, evidence = model.at_texels(category, texels, alpha)
        shown, certain = model.lookup(torch.full((size * size,), category), uv, alpha)
        torch.testing.assert_close(feature, shown, atol=1e-5, rtol=0)
        torch.testing.assert_close(evidence, certain, atol=1e-6, rtol=0)


def test_an_unseen_texel_is_no_evidence():
    model = texture()
    model.seen[0, 1, 2] = 0
    feature, evidence = model.at_texels(0, torch.tensor([6]), torch.full((1, 7), 1 / 7))
    assert float(evidence) == 0
    assert (feature == 0).all()


def test_update_by_hand():
    model = NeuralTexture(2, 2, 2, 2, temperature=4.0)
    model.theta[1, 0, 1] = torch.tensor([1.0, 0.0])  # both bins of texel 1
    model.seen[1, 0, 1, 0] = 1
    before = model.theta.clone()
    photo = torch.tensor([[0.0, 1.0]])
    model.update(1, torch.tensor([1]), photo, torch.tensor([[0.6, 0.4]]), momentum=0.9, first_visit=0.05)
    # Bin 0 moves by 0.1 * 0.6 of the way and is normalised; bin 1 was unseen and takes the feature.
    moved = torch.tensor([0.94, 0.06]) / math.hypot(0.94, 0.06)
    torch.testing.assert_close(model.theta[1, 0, 1], torch.stack([moved, photo[0]]))
    assert model.seen[1, 0, 1].tolist() == [1, 1]
    # Nothing else moved: neither other texels, nor the other category.
    before[1, 0, 1] = model.theta[1, 0, 1]
    torch.testing.assert_close(model.theta, before, rtol=0, atol=0)
    assert float(model.seen.sum()) == 2


def test_first_visit_needs_its_alpha():
    model = NeuralTexture(1, 2, 2, 2, temperature=4.0)
    photo = torch.tensor([[0.6, 0.8]])
    model.update(0, torch.tensor([3]), photo, torch.tensor([[0.96, 0.04]]), momentum=0.9, first_visit=0.05)
    assert model.seen[0, 1, 1].tolist() == [1, 0]
    assert model.theta[0, 1, 1].tolist() == [photo[0].tolist(), [0.0, 0.0]]
    # A bin that was seen moves however small its alpha.
    model.update(
        0,
        torch.tensor([3]),
        torch.tensor([[0.8, 0.6]]),
        torch.tensor([[0.02, 0.98]]),
        momentum=0.5,
        first_visit=0.05,
    )
    want = normalize(torch.tensor([0.6 + 0.01 * 0.2, 0.8 - 0.01 * 0.2]), dim=0)
    torch.testing.assert_close(model.theta[0, 1, 1, 0], want)
    assert model.seen[0, 1, 1].tolist() == [1, 1]


def test_update_takes_no_texels():
    model = texture()
    before = model.theta.clone()
    model.update(0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), torch.zeros(0, 7), 0.9, 0.05)
    torch.testing.assert_close(model.theta, before, rtol=0, atol=0)


def test_sample_draws_only_what_was_seen():
    model = NeuralTexture(2, 4, 7, 5, temperature=4.0)
    generator = torch.Generator().manual_seed(0)
    features, texels = model.sample(1, 10, generator)
    assert features.shape == (0, 5)
    assert len(texels) == 0
    model.theta[1, 2, 3, 4], model.theta[1, 0, 1, 0] = 1.0, 2.0
    model.seen[1, 2, 3, 4] = model.seen[1, 0, 1, 0] = 1
    features, texels = model.sample(1, 50, generator)
    assert features.shape == (50, 5)
    assert set(texels.tolist()) == {2 * 4 + 3, 1}
    torch.testing.assert_close(features[:, 0], torch.where(texels == 1, 2.0, 1.0))


def test_texel_points_lie_under_the_texel_centres():
    uv = sphere_uv(texel_points(8)).reshape(8, 8, 2)
    centre = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(uv[..., 0], centre.expand(8, 8))
    torch.testing.assert_close(uv[..., 1], centre[:, None].expand(8, 8))


@pytest.mark.parametrize(("size", "bins"), [(1, 7), (4, 0)])
def test_impossible_sizes_are_refused(size, bins):
    with pytest.raises(ValueError, match=f"view_bins {bins} and texture_size {size}"):
        NeuralTexture(1, size, bins, 5, temperature=4.0)
