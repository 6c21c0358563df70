"""Analysis by synthesis on feature maps of which the truth is known: starts, what is found, its masks."""

import math
from dataclasses import replace

import pytest
import torch

from ntdm.geometry import metrics
from ntdm.geometry.camera import rotation
from ntdm.render_and_compare.encode import encode, foreground_gain
from ntdm.render_and_compare.parameters import POSE_COLUMNS
from ntdm.render_and_compare.starts import Starts
from painted_world import (
    DEFAULT,
    DIM,
    FOCAL,
    SIZE,
    VIEWPOINTS,
    degrees,
    noise,
    one_colour,
    overlap,
    painted_model,
    photographs,
    solver_of,
    with_clutter,
)


@pytest.fixture(scope="module")
def model(tiny):
    return painted_model(tiny)


@pytest.fixture(scope="module")
def solver(model):
    return solver_of(model, 0, DEFAULT)


@pytest.fixture(scope="module")
def solved(model, solver):
    photos, truth = photographs(model, VIEWPOINTS)
    return photos, truth, solver.solve(photos)


def test_there_is_a_start_for_every_pose_and_latent(solver):
    assert solver.starts.rows.shape == (12 * 4 * 3 * 2, POSE_COLUMNS + 2)
    assert len(solver.starts.rows.unique(dim=0)) == len(solver.starts.rows)
    by_pose = solver.starts.rows.unflatten(0, (-1, 2))
    assert (by_pose[:, 0, :POSE_COLUMNS] == by_pose[:, 1, :POSE_COLUMNS]).all()
    torch.testing.assert_close(by_pose[7, :, POSE_COLUMNS:], torch.eye(2))
    degrees = torch.rad2deg(solver.starts.rows[:, :3])
    assert degrees[:, 0].round().unique().tolist() == list(range(0, 360, 30))
    assert degrees[:, 1].round().unique().tolist() == [-30, 0, 30, 60]
    assert degrees[:, 2].round().unique().tolist() == [-30, 0, 30]
    torch.testing.assert_close(solver.starts.rows[:, 3].exp().unique(), torch.tensor([5.0]))
    assert (solver.starts.rows[:, 4:7] == 0).all()


def test_starts_from_one_latent(model):
    few = replace(DEFAULT, azimuths=2, elevations=(0.0,), thetas=(0.0, 10.0))
    found = {}
    for key, config in (
        ("average", replace(few, latent_start="average")),
        ("random", replace(few, latent_start="random")),
        ("again", replace(few, latent_start="random")),
        ("other seed", replace(few, latent_start="random", seed=1)),
    ):
        starts = solver_of(model, 0, config).starts.rows
        assert len(starts) == 4
        found[key] = starts[:, POSE_COLUMNS:].unique(dim=0)
        assert len(found[key]) == 1
        assert (found[key] >= 0).all()
        torch.testing.assert_close(found[key].sum(1), torch.ones(1))
    torch.testing.assert_close(found["average"], torch.full((1, 2), 0.5))
    assert torch.equal(found["random"], found["again"])
    assert not torch.equal(found["random"], found["other seed"])


def test_a_fixed_average_shape_stays(model, solved):
    config = replace(DEFAULT, latent_start="average", refine_shape=False, steps=8)
    solution = solver_of(model, 0, config).solve(solved[0])
    torch.testing.assert_close(solution.latent, torch.full((len(VIEWPOINTS), 2), 0.5))
    assert degrees(solution, VIEWPOINTS).max() < 15


def test_without_the_background_term_only_foreground_counts(model, solver):
    plain = solver_of(model, 0, replace(DEFAULT, background_term=False))
    cosine = torch.tensor([0.8, 0.3, -0.2, 0.1])
    clutter = torch.tensor([0.5, 0.4, -0.5, 0.0])
    # Foreground is what looks more like the object than like background, and like it at all.
    gains = [foreground_gain(cosine, clutter, each.config) for each in (plain, solver)]
    torch.testing.assert_close(gains[0], torch.tensor([0.8, 0.0, 0.0, 0.1]))
    torch.testing.assert_close(gains[1], torch.tensor([0.3, -0.02, 0.3, 0.1]))
    # What background looks like then matters only for which cells count.
    photos, _ = photographs(model, VIEWPOINTS)
    lower = photos._replace(clutter=photos.clutter - 0.01)
    assert (plain.starts.losses(lower) <= plain.starts.losses(photos)).all()


def test_the_best_start_is_near_the_truth(model, solver, solved):
    losses = solver.starts.losses(solved[0])
    assert losses.shape == (len(VIEWPOINTS), len(solver.starts.rows))
    best = solver.starts.rows[losses.argmin(1), :3]
    errors = metrics.rotation_error(rotation(best).numpy(), rotation(VIEWPOINTS).numpy())
    # The starts are 30 degrees apart: none of these viewpoints is farther than 26 from one.
    assert math.degrees(errors.max()) < 30


def test_starts_of_large_photos_are_compared_on_coarser_cells(model, solver, solved):
    assert solver.starts.pooling == 2
    coarse = solver_of(model, 0, DEFAULT)
    coarse.starts = Starts(coarse.renderer, DEFAULT, SIZE, FOCAL, most_cells=8)
    assert coarse.starts.pooling == 4
    # The same search on a quarter of the cells: its losses are near those of the finer one.
    losses, finer = coarse.starts.losses(solved[0]), solver.starts.losses(solved[0])
    assert 0 < (losses - finer).abs().mean() < 0.1
    assert degrees(coarse.solve(solved[0]), VIEWPOINTS).max() < 3


def test_recovers_the_viewpoint_and_the_masks(solver, solved):
    photos, truth, solution = solved
    assert degrees(solution, VIEWPOINTS).max() < 3
    amodal, visible = solver.masks(solution, photos)
    assert amodal.shape == visible.shape == (len(VIEWPOINTS), *SIZE)
    assert overlap(amodal, truth).min() > 0.95
    # Nothing hides the object.
    assert overlap(visible, truth).min() > 0.95


def test_solution_is_what_its_fields_say(model, solver, solved):
    photos, _, solution = solved
    assert ((solution.viewpoint[:, 0] >= 0) & (solution.viewpoint[:, 0] < 2 * math.pi)).all()
    centre = torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
    torch.testing.assert_close(solution.principal_point, centre.expand(len(VIEWPOINTS), 2))
    vertices = model.shape(0)(solution.latent) * solution.scale[:, None, None]
    torch.testing.assert_close(solution.vertices, vertices)
    pose, scale = solution.viewpoint, solution.scale[:, None].log()
    rows = torch.cat([pose[:, :3], pose[:, 3:].log(), torch.zeros(len(pose), 2), scale, solution.latent], 1)
    loss = solver.loss(rows, torch.arange(len(rows)), photos)
    torch.testing.assert_close(loss, solution.loss, atol=1e-4, rtol=0)
    assert (solution.loss < solver.starts.losses(photos).amin(1)).all()


def test_half_hidden_object(model, solver):
    photos, truth = photographs(model, VIEWPOINTS)
    features, hidden = photos.features.clone(), torch.zeros(SIZE, dtype=torch.bool)
    hidden[:, SIZE[1] // 2 :] = True
    cells = hidden[:: model.stride, :: model.stride]
    features[:, cells] = noise(len(features), int(cells.sum()), seed=3)
    photos = with_clutter(features)
    solution = solver.solve(photos)
    assert degrees(solution, VIEWPOINTS).max() < 10
    amodal, visible = solver.masks(solution, photos)
    assert overlap(amodal, truth).mean() > 0.9
    assert (visible & ~amodal).sum() == 0
    # What is hidden is told from what is not, but for half a cell at the border.
    assert overlap(visible, truth & ~hidden).min() > 0.85
    # The prior is in the log odds, within the outline alone.
    even, sure = (solver_of(model, 0, replace(solver.config, visible_prior=p)) for p in (0.5, 0.9))
    logit, surer = (s.visible_logit(solution, photos) for s in (even, sure))
    known = logit != 0
    torch.testing.assert_close(surer - logit, 0.07 * math.log(9) * known)
    assert known.any() and not known.all()


def test_soft_silhouette_beats_hard_where_only_the_outline_tells(tiny):
    model = painted_model(tiny)
    colour = one_colour(model)
    viewpoints = VIEWPOINTS.clone()
    viewpoints[:, 3] = torch.tensor([4.2, 6.0, 4.2, 6.0])
    photos, truth = photographs(model, viewpoints)
    features = photos.features.clone()
    cells = torch.nn.functional.avg_pool2d(truth[:, None].float(), model.stride)[:, 0] > 0.5
    features[cells] = colour
    photos = with_clutter(features)
    overlaps = {}
    # A wide edge shrinks the outline, as m is almost 1 well beyond it: sigma 0.25 to 1 gave 0.89 to 0.65
    # here, the hard silhouette, which has no gradient at all, 0.73.
    for silhouette in ("soft", "hard"):
        solver = solver_of(model, 0, replace(DEFAULT, silhouette=silhouette, sigma=0.35))
        overlaps[silhouette] = overlap(solver.masks(solver.solve(photos), photos)[0], truth)
    assert overlaps["soft"].mean() > overlaps["hard"].mean() + 0.05
    assert overlaps["soft"].min() > 0.8


def test_soft_silhouette_costs_little_where_the_texture_tells_all(model, solver, solved):
    photos, truth, soft = solved
    hard_solver = solver_of(model, 0, replace(DEFAULT, silhouette="hard"))
    hard = hard_solver.solve(photos)
    # Measured: 0.990 and 0.998. Cells beside the outline count in part: the soft optimum is a little off.
    with_soft = overlap(solver.masks(soft, photos)[0], truth).mean()
    assert with_soft > overlap(hard_solver.masks(hard, photos)[0], truth).mean() - 0.02
    assert degrees(soft, VIEWPOINTS).mean() < degrees(hard, VIEWPOINTS).mean() + 0.5


def test_unseen_texture_says_nothing(tiny):
    model = painted_model(tiny)
    model.texture.seen.zero_()
    photos, _ = photographs(model, VIEWPOINTS[:2])
    solver = solver_of(model, 0, replace(DEFAULT, azimuths=2, elevations=(0.0,), thetas=(0.0,)))
    torch.testing.assert_close(solver.starts.losses(photos), torch.ones(2, len(solver.starts.rows)))
    loss = solver.loss(solver.starts.rows[:2], torch.arange(2), photos)
    torch.testing.assert_close(loss, torch.ones(2))


# --- gradients, in float64 ---------------------------------------------------------------------------------


def test_encode_measures_likeness_to_the_bank(tiny):
    model = painted_model(tiny)
    photo = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    configs = {kind: replace(tiny.INFER, clutter=kind) for kind in ("nearest", "mean", "mixture")}
    with pytest.raises(ValueError, match="background bank is empty"):
        encode(model, photo, tiny.INFER)
    model.bank.push(noise(6))
    nearest, mean, mixture = (encode(model, photo, config) for config in configs.values())
    assert nearest.features.shape == (2, 8, 12, DIM)
    torch.testing.assert_close(nearest.features.norm(dim=-1), torch.ones(2, 8, 12))
    likeness = nearest.features @ noise(6).T
    torch.testing.assert_close(nearest.clutter, likeness.amax(-1))
    torch.testing.assert_close(mean.clutter, likeness.mean(-1) / noise(6).mean(0).norm())
    weighed = configs["mixture"]
    sharp = replace(weighed, clutter_temperature=1e-3, clutter_count=6.0)
    torch.testing.assert_close(encode(model, photo, sharp).clutter, likeness.amax(-1), atol=5e-3, rtol=0)
    twice = encode(model, photo, replace(weighed, clutter_count=2 * weighed.clutter_count))
    torch.testing.assert_close(twice.clutter - mixture.clutter, torch.full((2, 8, 12), 0.07 * math.log(2)))
    # It does not depend on how many features the bank holds of one kind.
    model.bank.push(noise(6))
    torch.testing.assert_close(encode(model, photo, weighed).clutter, mixture.clutter)
