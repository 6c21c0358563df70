"""The model: what it refuses, what its maps hold, and what one training step moves."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntdm.config.protocol import CATEGORIES
from ntdm.config.stages import ShapeConfig
from ntdm.data.batch import Batch
from ntdm.data.dataset import SampleDataset
from ntdm.geometry.camera import Pinhole, cam_from_obj, camera_centre
from ntdm.geometry.mesh import sphere_uv
from ntdm.io.cache_split import find
from ntdm.methods.ntdm import NTDM
from ntdm.nn.deformable_mesh import DeformableMesh


def build(tiny, **changes) -> NTDM:
    torch.manual_seed(0)
    return NTDM(replace(tiny.TRAIN, **changes), {c: tiny.shape(half) for c, half in tiny.HALVES.items()})


@pytest.fixture
def model(tiny) -> NTDM:
    return build(tiny)


@pytest.fixture(scope="module")
def batch(tiny_folder) -> Batch:
    """The training cache's photos: six of each category."""
    data = SampleDataset(find(tiny_folder / "cache", "pascal3d/train"))
    items = [data[i] for i in range(len(data))]
    return Batch(
        photo=torch.stack([i["image"] for i in items]),
        background=~torch.stack([i["amodal_mask"] for i in items]),
        viewpoint=torch.stack([i["viewpoint"] for i in items]),
        focal=torch.stack([i["focal"] for i in items]),
        principal_point=torch.stack([i["principal_point"] for i in items]),
        category=[["car", "sofa"].index(i["category"]) for i in items],
        latent=[i["latent"] for i in items],
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_no_shapes_and_templates_that_differ_are_refused(tiny):
    with pytest.raises(ValueError, match="no shapes given; run `ntdm fit-shapes`"):
        NTDM(tiny.TRAIN, {})
    other = DeformableMesh(ShapeConfig(subdivisions=1, width=8, layers=2), 1)
    with pytest.raises(ValueError, match=r"templates differ in vertices .*'car': 162.*'sofa': 42"):
        NTDM(tiny.TRAIN, {"car": tiny.shape((0.2, 0.4, 0.1)), "sofa": other})


def test_categories_are_sorted_and_shapes_frozen(tiny):
    model = NTDM(tiny.TRAIN, {c: tiny.shape((0.2, 0.3, 0.4)) for c in ("sofa", "bus", "car")})
    assert model.categories == ("bus", "car", "sofa")
    assert not any(p.requires_grad for p in model.shapes.parameters())
    assert all(p.requires_grad for p in model.backbone.parameters())


def test_every_category_has_its_shape(tiny):
    """One of them is called as a method of torch's modules is: train."""
    shapes = {c: tiny.shape((0.2, 0.3, 0.4), seed) for seed, c in enumerate(CATEGORIES)}
    model = NTDM(tiny.TRAIN, shapes)
    for number, category in enumerate(model.categories):
        assert model.shape(number) is shapes[category]


@pytest.mark.parametrize("bf16", [False, True])
def test_features_are_unit_vectors_channels_last(tiny, batch, bf16):
    model = build(tiny, bf16=bf16).eval()
    features = model.features(batch.photo[:2])
    assert features.shape == (2, 16, 16, tiny.TRAIN.feature_dim)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 16, 16))


def test_surface_map_holds_the_sphere_point_and_the_view(tiny, model):
    viewpoint = torch.tensor([[0.0, 0.0, 0.0, 5.0]])
    vertices = model.shape(0)(torch.eye(2)[:1])
    point = torch.tensor([[32.0, 32.0]])
    surface = model.surface_map(
        cam_from_obj(vertices, viewpoint), Pinhole(torch.tensor([300.0]), point, (64, 64))
    )
    covered = surface.fragments.face_index >= 0
    assert 0 < int(covered.sum()) < 64 * 64
    assert (surface.sphere[~covered] == 0).all()
    assert (surface.local_view[~covered] == 0).all()
    assert (surface.local_view[covered].norm(dim=-1) - 1).abs().max() < 0.2  # means of unit vectors
    # The middle shows the front, -y, whose normal looks at the camera.
    middle = surface.sphere[0, 31:33, 31:33].mean((0, 1))
    torch.testing.assert_close(normalize(middle, dim=0), torch.tensor([0.0, -1.0, 0.0]), atol=0.02, rtol=0)
    assert float(normalize(surface.local_view[0, 31, 31], dim=0)[2]) > 0.99
    # The right of the picture is +x, its top +z; every visible point faces the camera.
    assert float(surface.sphere[0, 32, 40, 0]) > 0.3
    assert float(surface.sphere[0, 25, 32, 2]) > 0.3
    assert float(surface.local_view[covered][:, 2].min()) > -0.1


def test_first_step_lays_the_photo_onto_the_right_texels(tiny, model, batch):
    # Feature maps that are a known function of the surface point must arrive at the texel of that point.
    waves = torch.randn(3, 16, generator=generator())

    def painting(points: Tensor) -> Tensor:
        return normalize((points @ waves).cos(), dim=-1)

    vertices = torch.cat([model.shape(c)(z[None]) for c, z in zip(batch.category, batch.latent, strict=True)])
    cam = cam_from_obj(vertices, batch.viewpoint)
    surface = model.surface_map(cam, Pinhole(batch.focal, batch.principal_point, (64, 64)).scaled(1 / 4))
    covered = surface.fragments.face_index >= 0
    maps = normalize(torch.ones(len(vertices), 16, 16, 16), dim=-1)
    maps[covered] = painting(normalize(surface.sphere[covered], dim=-1))
    model.features = lambda photo: maps
    model.training_loss(batch, generator())
    assert 0.1 < model.texture.seen.mean() < 1
    want = painting(model.texels).reshape(32, 32, 1, 16)
    for category in range(2):
        seen = model.texture.seen[category] > 0
        cosine = (model.texture.theta[category] * want).sum(-1)[seen]
        assert cosine.mean() > 0.98
        assert cosine.quantile(0.01) > 0.9
    # Only what a camera stood over was seen: no photo shows an underside.
    below = camera_centre(batch.viewpoint)[:, 2].min() < -2
    assert not below
    assert float(model.texture.seen[:, -2:].sum()) < float(model.texture.seen[:, 8:10].sum())


def test_background_comes_from_cells_without_the_object(model, batch):
    maps = torch.zeros(len(batch.photo), 16, 16, 16)
    inside = torch.nn.functional.max_pool2d((~batch.background)[:, None].float(), 4)[:, 0] > 0
    maps[..., 0], maps[..., 1] = inside.float(), (~inside).float()
    model.features = lambda photo: maps
    model.training_loss(batch, generator())
    bank = model.bank.valid()
    assert len(bank) == len(batch.photo) * model.config.background_per_image
    assert (bank[:, 0] == 0).all()
    assert (bank[:, 1] == 1).all()


def test_no_free_cell_gives_no_background(model, batch):
    full = batch._replace(background=torch.zeros_like(batch.background))
    loss, _ = model.training_loss(full, generator())
    assert loss.isfinite()
    assert len(model.bank.valid()) == 0


def test_what_a_patch_hides_is_not_learned_from(model, batch):
    left = torch.zeros_like(batch.background)
    left[..., :32] = True
    model.training_loss(batch, generator())
    everything = model.texture.seen.sum().item()
    model.texture.seen.zero_()
    model.training_loss(batch._replace(hidden=left), generator())
    assert 0 < model.texture.seen.sum().item() < 0.8 * everything
    model.texture.seen.zero_()
    model.training_loss(batch._replace(hidden=torch.ones_like(left)), generator())
    assert model.texture.seen.sum() == 0


def hidden_by_background(batch):
    """The batch with patches of background over the left halves of its photos."""
    left = torch.zeros_like(batch.background)
    left[..., :32] = True
    hiding = {"hidden": left, "background": batch.background | left}
    return batch._replace(amodal_mask=~batch.background, **hiding)


def test_half_of_the_background_lies_over_the_object(model, batch):
    batch = hidden_by_background(batch)
    over = ~model._touched(~(batch.amodal_mask & batch.background))
    maps = torch.zeros(len(batch.photo), 16, 16, 16)
    maps[..., 0], maps[..., 1] = over.float(), (~over).float()
    assert (over.flatten(1).sum(1) >= 5).all()
    for weight, least, most in ((0.5, 0.5, 0.5), (0.0, 0.05, 0.45)):
        model.config = replace(model.config, occlusion_weight=weight, background_per_image=10)
        samples = model._background_samples(maps, batch, generator())
        assert len(samples) == len(batch.photo) * 10
        assert least <= samples[:, 0].mean() <= most


def test_hidden_cells_learn_to_be_called_hidden(tiny, batch):
    """The occlusion term alone turns the decision there; it needs patches and a bank."""
    model = build(tiny)
    patched = hidden_by_background(batch)
    features = model.features(patched.photo)
    surface = model.annotated_surface(patched, (features.shape[1], features.shape[2]))
    assert model._occlusion_loss(features, surface, patched) == 0  # the bank is empty
    model.training_loss(batch, generator())
    assert model._occlusion_loss(features, surface, batch) == 0  # no patches
    optimiser, losses = torch.optim.Adam(model.backbone.parameters(), 2e-3), []
    for _ in range(12):
        loss = model._occlusion_loss(model.features(patched.photo), surface, patched)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > math.log(2) > 2 * losses[-1]  # from called visible to called hidden, in the mean


def test_a_step_trains_the_backbone(model, batch):
    first, figures = model.training_loss(batch, generator())
    # Nothing was seen yet: nothing to compare with, a loss of 0 that has a gradient all the same.
    assert first.item() == 0
    assert figures["texels"] == 0
    first.backward()
    before = {k: v.clone() for k, v in model.shapes.state_dict().items()}
    second, figures = model.training_loss(batch, generator())
    assert second.item() == pytest.approx(figures["loss"])
    assert 0 < second.item() < 20
    # At most so many texels an image, and all these photos show some.
    assert 12 * 10 < figures["texels"] <= 12 * model.config.positives
    assert figures["positive_cosine"] > 0.5
    model.zero_grad()
    second.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    assert sum(float(p.grad.abs().sum()) for p in model.backbone.parameters()) > 0
    for name, value in model.shapes.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_steps_repeat_with_their_generator(tiny, batch):
    results = []
    for _ in range(2):
        model = build(tiny)
        losses = [model.training_loss(batch, generator())[0].item() for _ in range(2)]
        results.append((losses, model.texture.theta.clone(), model.bank.features.clone()))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_negatives_are_far_other_or_background(tiny):
    model = build(tiny, same_class_negatives=4000)
    model.texture.seen.fill_(1)
    model.texture.theta[0], model.texture.theta[1] = 1.0, 2.0
    model.bank.push(torch.full((8, 16), 3.0))
    points = model.texels[[16, 512]]  # at the pole, where texels are dense, and on the equator
    background = torch.full((4, 16), 4.0)
    features, log_weight, far = model._negatives(0, points, background, generator())
    config = model.config
    counts = [config.same_class_negatives, config.other_class_negatives, 4 + config.background_negatives]
    assert len(features) == len(log_weight) == far.shape[1] == sum(counts)
    same, other, clutter = features[:, 0].split(counts)
    assert set(same.tolist()) == {1.0}
    assert set(other.tolist()) == {2.0}
    assert set(clutter.tolist()) == {3.0, 4.0}
    torch.testing.assert_close(log_weight[: -counts[2]], torch.zeros(counts[0] + counts[1]))
    torch.testing.assert_close(log_weight[-counts[2] :], torch.full((counts[2],), math.log(0.1)))
    assert far[:, counts[0] :].all()
    # Of the same category, those within 0.245 rad are out: at the pole about the first 2.5 rows of the
    # map's 32, on the equator an ellipse of half axes 1.2 (u) and 2.5 (v) texels, about 11 of 1024.
    near = (~far[:, : counts[0]]).float().mean(1)
    assert 0.06 < near[0] < 0.11
    assert 0.008 < near[1] < 0.04


def test_texel_points_have_the_textures_uv(model):
    uv = sphere_uv(model.texels)
    torch.testing.assert_close(uv[33], torch.tensor([1.5 / 32, 1.5 / 32]))
