"""The solver's steps: gradients of the loss, what moves and what stays, when it ends, whom it leaves out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ntdm.geometry.camera import cam_from_obj
from ntdm.methods.ntdm import NTDM
from ntdm.ops.rasterize import rasterize
from ntdm.render_and_compare.encode import EncodedPhotos
from ntdm.render_and_compare.solver import POSE_COLUMNS, Solver, fit_categories
from painted_world import (
    DEFAULT,
    FOCAL,
    SIZE,
    VIEWPOINTS,
    degrees,
    noise,
    one_colour,
    painted_model,
    photographs,
    solver_of,
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


def part(photos: EncodedPhotos, i: int) -> EncodedPhotos:
    return EncodedPhotos(photos.features[i : i + 1], photos.clutter[i : i + 1])


def test_rows_do_not_depend_on_their_batch(model, solver, solved):
    photos, _, together = solved
    losses = solver.starts.losses(photos)
    few = solver_of(model, 0, replace(DEFAULT, screening_steps=3, steps=4))
    begun = few.solve(photos)
    for i in range(len(VIEWPOINTS)):
        torch.testing.assert_close(solver.starts.losses(part(photos, i))[0], losses[i], atol=1e-5, rtol=0)
        alone = few.solve(part(photos, i))
        for name in ("viewpoint", "latent", "scale", "loss", "vertices"):
            # Measured after these steps: 1e-6, the rounding of Psi's products in other batch sizes.
            torch.testing.assert_close(
                getattr(alone, name)[0],
                getattr(begun, name)[i],
                atol=1e-4,
                rtol=0,
                msg=lambda m, n=name: f"{n}: {m}",
            )
    # Over all steps Adam at its full rate magnifies that rounding, as it does a change of 1e-7 in the photo.
    for i in (1, 3):
        alone = solver.solve(part(photos, i))
        assert degrees(alone, together.viewpoint[i : i + 1])[0] < 1
        torch.testing.assert_close(alone.loss[0], together.loss[i], atol=1e-3, rtol=0)


def test_frozen_parameters_stay(model):
    config = replace(
        DEFAULT, azimuths=4, elevations=(0.0,), thetas=(0.0,), steps=6, refine_shape=False,
        refine_distance=False, refine_scale=False,
    )  # fmt: skip
    photos, _ = photographs(model, VIEWPOINTS[:1])
    solution = solver_of(model, 0, config).solve(photos)
    assert float(solution.viewpoint[0, 3]) == pytest.approx(5.0)
    assert float(solution.scale[0]) == 1
    assert sorted(solution.latent[0].tolist()) == [0, 1]
    freed = replace(
        config, refine_principal_point=True, refine_distance=True, refine_shape=True, shape_after=0
    )
    moved = solver_of(model, 0, freed).solve(photos)
    assert (moved.principal_point[0] != torch.tensor([SIZE[1] / 2, SIZE[0] / 2])).all()
    assert float(moved.viewpoint[0, 3]) != pytest.approx(5.0)
    assert sorted(moved.latent[0].tolist()) != [0, 1]
    waited = solver_of(model, 0, replace(freed, shape_after=7)).solve(photos)
    assert sorted(waited.latent[0].tolist()) == [0, 1]


def test_clutter_weight_bounds_what_a_cell_may_cost(model):
    # Photos that look like background everywhere: each covered cell costs kappa, no cell more.
    config = replace(DEFAULT, azimuths=2, elevations=(0.0,), thetas=(0.0,), silhouette="hard")
    features = noise(1, SIZE[0] // 4, SIZE[1] // 4)
    photos = EncodedPhotos(features, torch.full(features.shape[:3], 2.0))
    for kappa in (0.0, 0.02, 0.1):
        solver = solver_of(model, 0, replace(config, clutter_weight=kappa))
        rows = solver.starts.rows[:1]
        cam = cam_from_obj(model.shape(0)(rows[:, POSE_COLUMNS:]), torch.tensor([[0.0, 0.0, 0.0, 5.0]]))
        point = torch.tensor([[SIZE[1] / 8, SIZE[0] / 8]])
        covered = rasterize(cam, model.faces, torch.tensor([FOCAL / 4]), point, features.shape[1:3])
        share = (covered.face_index >= 0).double().mean().item()
        loss = solver.loss(rows, torch.zeros(1, dtype=torch.int64), photos)
        assert float(loss[0]) == pytest.approx(1 + kappa * share, abs=1e-5)


@pytest.fixture
def float64() -> Iterator[Callable[[NTDM, str], tuple[Solver, Tensor, Tensor, EncodedPhotos]]]:
    """Makes a solver, rows, owners and photos in float64: rows off the truth in every parameter."""

    def make(model: NTDM, silhouette: str) -> tuple[Solver, Tensor, Tensor, EncodedPhotos]:
        config = replace(DEFAULT, azimuths=1, elevations=(0.0,), thetas=(0.0,), silhouette=silhouette)
        solver = solver_of(model, 0, config)
        photos, _ = photographs(model, VIEWPOINTS)
        model.double()
        torch.set_default_dtype(torch.float64)
        rows = torch.zeros(len(VIEWPOINTS), POSE_COLUMNS + 2)
        rows[:, :3] = VIEWPOINTS[:, :3] + torch.tensor([0.13, -0.07, 0.05])
        rows[:, 3:] = torch.tensor([math.log(5.3), 0.11, -0.06, 0.03, 0.7, 0.2])
        photos = EncodedPhotos(photos.features.double(), photos.clutter.double())
        return solver, rows, torch.arange(len(rows)), photos

    yield make
    torch.set_default_dtype(torch.float32)


def analytic(solver: Solver, rows: Tensor, owner: Tensor, photos: EncodedPhotos) -> Tensor:
    leaf = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solver.loss(leaf, owner, photos).sum(), leaf)
    return gradient


def finite_difference(solver: Solver, rows: Tensor, owner: Tensor, photos: EncodedPhotos) -> Tensor:
    gradient, step = torch.zeros_like(rows), 1e-6
    for k in range(rows.shape[1]):
        moved = torch.zeros_like(rows)
        moved[:, k] = step
        ahead, behind = (solver.loss(rows + s * moved, owner, photos).detach() for s in (1, -1))
        gradient[:, k] = (ahead - behind) / (2 * step)
    return gradient


def test_gradient_inside_the_outline(tiny, float64):
    # Hard silhouettes: at 1e-6 no cell changes sides, and every column has its gradient through f'.
    problem = float64(painted_model(tiny), "hard")
    gradient = analytic(*problem)
    assert (gradient[:, :7].abs().amax(0) > 1e-3).all()
    torch.testing.assert_close(gradient, finite_difference(*problem), atol=1e-7, rtol=1e-4)


def test_gradient_of_the_outline(tiny, float64):
    # One colour all over: the texture that is held fixed outside the outline is the same everywhere, so the
    # gradient is exact there, too.
    model = painted_model(tiny)
    colour = one_colour(model)
    solver, rows, owner, photos = float64(model, "soft")
    photos.features[:, 8:-8, 8:-8] = colour.double()
    gradient = analytic(solver, rows, owner, photos)
    assert (gradient[:, :7].abs().amax(0) > 1e-3).all()
    torch.testing.assert_close(gradient, finite_difference(solver, rows, owner, photos), atol=1e-7, rtol=1e-4)


def test_outline_grows_over_the_object_and_shrinks_from_background(model, solver):
    photos, _ = photographs(model, VIEWPOINTS)
    pose = VIEWPOINTS.clone()
    for factor, sign in ((0.8, -1), (1.25, 1)):
        rows = torch.cat([pose[:, :3], pose[:, 3:].log(), torch.zeros(4, 3), torch.eye(2)[[0, 1, 0, 1]]], 1)
        rows[:, 6] = math.log(factor)
        rows.requires_grad_()
        loss = solver.loss(rows, torch.arange(4), photos)
        (gradient,) = torch.autograd.grad(loss.sum(), rows)
        assert (gradient[:, 6].sign() == sign).all()


# --- photos ------------------------------------------------------------------------------------------------


def test_a_rate_that_waits_for_nobody_is_the_schedule(model, solved):
    photos = solved[0]
    config = replace(DEFAULT, steps=12, decay_every=4, screening_steps=2, shape_after=0)
    plain = solver_of(model, 0, config).solve(photos)
    endless = solver_of(model, 0, replace(config, patience=12)).solve(photos)
    for one, other in zip(plain, endless, strict=True):
        assert torch.equal(one, other)


def test_patience_ends_early_and_as_well(model, solved, monkeypatch):
    photos, _, found = solved
    solver = solver_of(model, 0, replace(DEFAULT, patience=4))
    evaluated = []
    loss = Solver.loss
    monkeypatch.setattr(
        Solver, "loss", lambda self, rows, *rest: evaluated.append(len(rows)) or loss(self, rows, *rest)
    )
    early = solver.solve(photos)
    screened = (DEFAULT.screening_steps + 1) * DEFAULT.refined_starts * len(photos.features)
    assert sum(evaluated) - screened < 0.75 * (DEFAULT.steps + 1) * len(photos.features)
    assert degrees(early, VIEWPOINTS).max() < 5
    torch.testing.assert_close(early.loss, found.loss, atol=5e-3, rtol=0)


def test_categories_that_are_far_behind_are_not_refined(tiny):
    model = painted_model(tiny, categories=("car", "sofa"))
    # A sofa looks like noise, and in the second photo both look alike.
    model.texture.theta[1] = noise(*model.texture.theta.shape[1:4], seed=9)
    photos, _ = photographs(model, VIEWPOINTS[:2])
    config = replace(DEFAULT, steps=4, screening_steps=2, refined_starts=2)
    solvers = [solver_of(model, c, config) for c in range(2)]
    losses, ((cars, car), (sofas, sofa)) = fit_categories(solvers, photos)
    assert cars.tolist() == [0, 1] and sofas.tolist() == []
    assert len(sofa.loss) == 0
    assert torch.equal(losses[:, 0], car.loss)
    assert (losses[:, 1] > losses[:, 0] + config.class_margin).all()
    # Whoever asks for a category gets it, and learns nothing of the class by asking.
    asked, (_, (sofas, sofa)) = fit_categories(solvers, photos, torch.tensor([0, 1]))
    assert sofas.tolist() == [1]
    assert float(sofa.loss[0]) < float(losses[1, 1])
    assert torch.equal(asked, losses)
    wide = [solver_of(model, c, replace(config, class_margin=1.0)) for c in range(2)]
    assert [len(rows) for rows, _ in fit_categories(wide, photos)[1]] == [2, 2]
