"""The NeMo baseline: its loss, its vertex features, and its solver on features of known truth."""

import math

import pytest
import torch
import torch.nn.functional as F

from ntdm.config.protocol import CATEGORIES
from ntdm.config.stages import InferConfig
from ntdm.data.batch import Batch
from ntdm.geometry import metrics
from ntdm.geometry.camera import Pinhole, cam_from_obj, rotation
from ntdm.methods.cuboid import Cuboid
from ntdm.methods.nemo import NeMo, VertexRenderer, nemo_inference
from ntdm.render_and_compare.encode import EncodedPhotos
from ntdm.render_and_compare.parameters import Parameters
from ntdm.render_and_compare.solver import Solver

HALF, FOCAL, SIZE = (0.2, 0.42, 0.15), 600.0, (96, 128)
VIEWPOINTS = torch.tensor(
    [[0.35, 0.2, 0.1, 5.0], [2.0, 0.7, -0.3, 5.2], [3.6, -0.2, 0.25, 4.8], [5.5, 0.4, 0.0, 5.0]]
)


def build(tiny, **config) -> NeMo:
    torch.manual_seed(0)
    boxes = {
        "car": Cuboid([-x for x in HALF], HALF, 400),
        "sofa": Cuboid([-x for x in HALF[::-1]], HALF[::-1], 200),
    }
    return NeMo(tiny.training("nemo", **config), boxes)


def test_every_category_has_its_cuboid(tiny):
    """One of them is called as a method of torch's modules is: train."""
    boxes = {c: Cuboid([-x for x in HALF], HALF, 100 + 50 * i) for i, c in enumerate(CATEGORIES)}
    model = NeMo(tiny.training("nemo"), boxes)
    for number, category in enumerate(model.categories):
        assert model.cuboid(number) is boxes[category]


def painting(points: torch.Tensor, dim: int = 16) -> torch.Tensor:
    """Unit features [..., dim] of object points [..., 3]: a few waves over the box."""
    generator = torch.Generator().manual_seed(0)
    waves = 4 * torch.randn(3, dim, generator=generator)
    phases = 2 * math.pi * torch.rand(dim, generator=generator)
    return F.normalize((points @ waves + phases).cos(), dim=-1)


def painted(tiny) -> NeMo:
    model = build(tiny, feature_dim=16).requires_grad_(False).eval()
    for c, _ in enumerate(model.categories):
        vertices = model.cuboid(c).vertices
        model.vertex_features[c, : len(vertices)] = painting(vertices)
        model.seen[c, : len(vertices)] = True
    return model


def batch(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, *SIZE, dtype=torch.bool)
    mask[:, 30:70, 30:100] = True
    return Batch(
        photo=torch.randint(0, 256, (count, 3, *SIZE), generator=generator).to(torch.uint8),
        background=~mask,
        viewpoint=VIEWPOINTS[:count],
        focal=torch.full((count,), FOCAL),
        principal_point=torch.tensor([64.0, 48.0]).expand(count, 2),
        category=[0, 1, 0, 1][:count],
        latent=[],
    )


def test_first_visit_sets_and_later_ones_move_what_was_seen(tiny):
    model = build(tiny)
    found = F.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    model._update(0, torch.tensor([3, 5]), found)
    torch.testing.assert_close(model.vertex_features[0, [3, 5]], found)
    assert model.seen[0].nonzero()[:, 0].tolist() == [3, 5]
    assert not model.seen[1].any()
    # Two photos of vertex 3: their mean counts. Vertex 5 is not seen now and stays.
    model._update(0, torch.tensor([3, 3]), found.flip(0)[[0, 0]])
    moved = F.normalize(0.9 * found[0] + 0.1 * found[1], dim=0)
    torch.testing.assert_close(model.vertex_features[0, 3], moved)
    torch.testing.assert_close(model.vertex_features[0, 5], found[1])


def test_features_are_read_where_the_vertices_are(tiny):
    """A map that holds each cell's own place gives every vertex its projection."""
    model, photos = build(tiny), batch(2)
    h, w = SIZE[0] // model.stride, SIZE[1] // model.stride
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = torch.stack([x, y, torch.full_like(x, 100.0)], -1) * model.stride
    read, vertex = model._seen_vertices(place.expand(2, -1, -1, -1), photos, [0], 0)
    points = cam_from_obj(model.cuboid(0).vertices[None], photos.viewpoint[:1])[0, vertex]
    wanted = torch.tensor([64.0, 48.0]) + FOCAL / -points[:, 2:] * points[:, :2] * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(read[:, :2] / read[:, 2:] * 100 * model.stride, wanted, rtol=1e-3, atol=0.1)
    assert 0.3 < len(vertex) / len(model.cuboid(0).vertices) < 0.7  # three of six sides


def test_patched_vertices_are_not_learned_from(tiny):
    model, photos = build(tiny), batch(1)
    features = F.normalize(torch.randn(1, 24, 32, 16), dim=-1)
    _, everything = model._seen_vertices(features, photos, [0], 0)
    hidden = torch.zeros(1, *SIZE, dtype=torch.bool)
    hidden[:, :, :64] = True
    _, right = model._seen_vertices(features, photos._replace(hidden=hidden), [0], 0)
    assert 0 < len(right) < len(everything)
    assert set(right.tolist()) < set(everything.tolist())


def test_it_learns_a_batch_by_heart(tiny):
    model, photos = build(tiny), batch()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    cosines = []
    for step in range(25):
        loss, figures = model.training_loss(photos, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosines.append(figures["positive_cosine"])
    assert figures["vertices"] > 100
    assert loss.item() < 4  # of log(200 vertices and more) = 5.3 for who knows nothing
    assert cosines[-1] > 0.6
    assert model.seen.any(1).all()
    assert len(model.bank.valid()) > 0


def test_the_solver_finds_the_pose(tiny):
    model = painted(tiny)
    height, width = SIZE[0] // model.stride, SIZE[1] // model.stride
    config = InferConfig(steps=60, learning_rate=0.05, clutter_weight=0.5, silhouette="soft")
    solver = Solver(VertexRenderer(model, 0), nemo_inference(config), SIZE, FOCAL)
    assert len(solver.starts.rows) == 12 * 4 * 3
    # The photos: the painting rendered at the true viewpoints over noise.
    cam = cam_from_obj(model.cuboid(0).vertices.expand(4, -1, -1), VIEWPOINTS)
    middle = torch.tensor([width / 2, height / 2]).expand(4, 2)
    camera = Pinhole(torch.full((4,), FOCAL / model.stride), middle, (height, width))
    surface = solver.renderer.render(cam, None, camera)
    features = F.normalize(
        torch.randn(4, height, width, 16, generator=torch.Generator().manual_seed(2)), dim=-1
    )
    inside = surface.fragments.face_index >= 0
    features[inside], evidence = solver.renderer.features(surface.sphere[inside], surface.local_view[inside])
    assert (evidence > 0.99).all()
    solution = solver.solve(EncodedPhotos(features, torch.zeros(4, height, width)))
    errors = metrics.rotation_error(
        rotation(solution.viewpoint).double().numpy(), rotation(VIEWPOINTS).double().numpy()
    )
    assert errors.max() < math.radians(6)
    assert (solution.scale == 1).all()  # NeMo's has no size of its own


def test_its_loss_is_nemos(tiny):
    """1 - (mean max(f.f', f.beta) - mean f.beta), with f' = 0 outside the outline standing for background."""
    model = painted(tiny)
    solver = Solver(VertexRenderer(model, 0), nemo_inference(InferConfig()), SIZE, FOCAL)
    height, width = SIZE[0] // model.stride, SIZE[1] // model.stride
    generator = torch.Generator().manual_seed(3)
    features = F.normalize(torch.randn(1, height, width, 16, generator=generator), dim=-1)
    clutter = 0.2 * torch.rand(1, height, width, generator=generator)
    rows = torch.tensor([[0.4, 0.2, 0.0, math.log(5.0), 0, 0, 0, 1]])
    found = solver.loss(rows, torch.zeros(1, dtype=torch.int64), EncodedPhotos(features, clutter))
    cam = cam_from_obj(model.cuboid(0).vertices[None], torch.tensor([[0.4, 0.2, 0.0, 5.0]]))
    camera = Parameters.of(rows).camera(FOCAL, SIZE).scaled(1 / model.stride)
    surface = solver.renderer.render(cam, None, camera)
    inside = surface.fragments.face_index >= 0
    cosine = torch.where(inside, (F.normalize(surface.sphere[..., :-1], dim=-1) * features).sum(-1), -1)
    wanted = 1 - (torch.maximum(cosine, clutter).mean() - clutter.mean())
    torch.testing.assert_close(found, wanted[None])


def test_inference_keys_of_others_do_not_reach_it():
    changed = nemo_inference(
        InferConfig(silhouette="soft", clutter_weight=0.5, latent_start="random", steps=7)
    )
    assert (changed.silhouette, changed.clutter_weight, changed.latent_start) == ("hard", 0.0, "one-hot")
    assert changed.steps == 7


@pytest.mark.parametrize("weight", [0.0, 0.005])
def test_loss_without_and_with_background_is_finite(tiny, weight):
    model, photos = build(tiny, background_weight=weight), batch()
    for step in range(3):
        loss, _ = model.training_loss(photos, torch.Generator().manual_seed(step))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
