"""smoothing.py, initial_meshes.py, outline_loss.py, fit_meshes.py: what the meshes start from and move by."""

import dataclasses

import numpy as np
import pytest
import torch

from ntdm.config.stages import ShapeConfig
from ntdm.geometry import mesh
from ntdm.shapes import fit_meshes, initial_meshes, outline_loss, quality, smoothing
from simple_cads import box, ellipsoid, join, seen

SMALL = ShapeConfig(subdivisions=2, surface_samples=500)


def dense_laplacian(faces):
    edges, _ = mesh.face_neighbours(faces)
    linked = torch.zeros(int(faces.max()) + 1, int(faces.max()) + 1, dtype=torch.float64)
    linked[edges[:, 0], edges[:, 1]] = linked[edges[:, 1], edges[:, 0]] = 1
    return torch.diag(linked.sum(1)) - linked


def test_smoother_solves_with_the_laplacian():
    faces = mesh.icosphere(1).faces
    field = torch.randn(3, 42, 3, generator=torch.Generator().manual_seed(0))
    smoother, laplacian = smoothing.Smoother(faces), dense_laplacian(faces)
    for _ in range(2):  # the second time with kept factors
        for weight in (0.5, 7.0):
            found = smoother.smooth(field, weight)
            again = found + weight * torch.einsum("vw,kwc->kvc", laplacian.float(), found)
            torch.testing.assert_close(again, field, atol=1e-4, rtol=0)
    found = smoother.fair(field, 2.0)
    again = found + 2 * torch.einsum("vw,kwc->kvc", (laplacian @ laplacian).float(), found)
    torch.testing.assert_close(again, field, atol=1e-4, rtol=0)


def test_a_stiff_step_moves_all_of_a_mesh_and_a_soft_one_a_vertex():
    sphere = mesh.icosphere(2)
    smoother = smoothing.Smoother(sphere.faces)
    gradient = torch.zeros(1, len(sphere.vertices), 3)
    gradient[0, 5] = torch.tensor([0.0, 0.0, -3.0])
    moved = {}
    for weight in (0.01, 1000.0):
        moved[weight] = smoothing.SmoothDescent(smoother, gradient).step(gradient, 0.1, weight)[0, :, 2]
        assert moved[weight].argmax() == 5
        assert 0 < moved[weight].max() <= 0.1 + 1e-6
    others = torch.arange(len(sphere.vertices)) != 5
    assert moved[0.01][others].abs().max() < 0.02 * moved[0.01][5]
    assert moved[1000.0][others].min() > 0.5 * moved[1000.0][5]


def test_boxes_are_the_same_for_all_and_left_as_they_were_entered():
    surfaces = [seen(box(0.4, 0.3, 0.02)), seen(ellipsoid(0.1, 0.2, 0.3, centre=(0.1, 0, 0)))]
    boxes = initial_meshes.Boxes(surfaces)
    assert (2 * boxes.half).norm() == pytest.approx(1)
    for k, surface in enumerate(surfaces):
        assert (boxes.points[k].abs().amax(0) / boxes.half - 1).abs().max() < 0.05
        torch.testing.assert_close(boxes.from_unit_box(boxes.points[k], k), surface.points)
        assert boxes.normals[k].norm(dim=1).sub(1).abs().max() < 1e-5


def test_the_medoid_is_the_one_between():
    short, middle, long = (join(ellipsoid(0.1, 0.4, 0.1), box(0.3, r, 0.05)) for r in (0.04, 0.1, 0.25))
    assert initial_meshes.Boxes([seen(short), seen(middle), seen(long)]).medoid() == 1
    assert initial_meshes.Boxes([seen(long), seen(short), seen(middle)]).medoid() == 2
    assert initial_meshes.Boxes([seen(long)]).medoid() == 0


def test_starts_keep_an_ellipsoid_and_stretch_it_to_others():
    radii = torch.tensor([[0.3, 0.5, 0.2], [0.2, 0.2, 0.4]])
    surfaces = [seen(ellipsoid(*r.tolist())) for r in radii]
    sphere = mesh.icosphere(2)
    boxes, smoother = initial_meshes.Boxes(surfaces), smoothing.Smoother(sphere.faces)
    draw = torch.Generator().manual_seed(0)
    first = initial_meshes.on_sphere(boxes, 0, sphere.vertices, smoother, draw)
    assert (first - sphere.vertices * radii[0]).norm(dim=1).mean() < 0.1  # of a diagonal of 1.23
    both = initial_meshes.from_medoid(boxes, sphere.vertices * radii[0], 0, sphere.faces, smoother, draw)
    assert (both - sphere.vertices * radii[:, None]).norm(dim=2).mean() < 0.05


def test_outlines_say_which_way_the_area_grows():
    """A sphere too large, too small, or aside of the CAD's: the derivative along growth and motion."""
    sphere = mesh.icosphere(3)
    found = outline_loss.Outlines([seen(ellipsoid(0.3, 0.3, 0.3))] * 3, seed=0)
    sizes = torch.tensor([0.36, 0.24, 0.3])[:, None, None]
    vertices = (sizes * sphere.vertices).requires_grad_()
    excess = found.excess(vertices, sphere.faces, 4, torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(excess.sum(), vertices)
    growth = (gradient * sphere.vertices).sum((1, 2))
    # Moved outwards by 1, the outline moves by 1; its diagonal is 1.04.
    assert growth[0].item() == pytest.approx(1 / 1.04, rel=0.1)
    assert growth[1].item() == pytest.approx(-1 / 1.04, rel=0.1)
    assert growth[2].abs() < 0.2

    aside = (0.3 * sphere.vertices + torch.tensor([0.1, 0.0, 0.0]))[None].requires_grad_()
    excess = found.select([0]).excess(aside, sphere.faces, 24, torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(excess.sum(), aside)
    back = gradient.sum((0, 1))
    assert back[0] > 0.2
    assert back[1:].abs().max() < 0.2 * back[0]


def test_an_outline_that_fits_is_left_alone_by_the_pixel():
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 2:7, 3:6] = True
    signed = outline_loss.signed_distance(mask)[0]
    assert signed[4].tolist() == [1, 1, 1, 0, -1, 0, 1, 1, 1]
    image, row, column, outward = outline_loss.rim_pixels(torch.from_numpy(mask))
    assert len(image) == 5 * 3 - 3
    assert (signed[row, column] == 0).all()
    mask[0, 4, 4] = False
    assert outline_loss.signed_distance(mask)[0, 4, 4] == 0
    left = (row == 4) & (column == 3)
    torch.testing.assert_close(outward[left], torch.tensor([[-1.0, 0.0]]))


def test_meshes_of_one_category_correspond_and_are_copies():
    """A rod with a knob a third of the way along, in two lengths: the knob is made of the same vertices."""
    cads = [
        join(ellipsoid(0.08, half, 0.08), ellipsoid(0.2, 0.1, 0.2, centre=(0, -half / 3, 0)))
        for half in (0.45, 0.3)
    ]
    surfaces = [seen(cad) for cad in cads]
    config = dataclasses.replace(SMALL, steps=60)
    vertices, template, history = fit_meshes.fit_meshes(surfaces, config, "test")
    assert vertices.shape == (2, len(template.vertices), 3)
    assert [step for step, _ in history] == sorted({step for step, _ in history})
    assert history[-1][1] < 0.5 * history[0][1]
    knob = [v[:, [0, 2]].norm(dim=1) > 0.12 for v in vertices]
    assert knob[0].sum() > 10
    assert (knob[0] & knob[1]).sum() > 0.7 * (knob[0] | knob[1]).sum()
    for cad, surface, found in zip(cads, surfaces, vertices, strict=True):
        measured = quality.ShapeQuality(cad, surface, views=8)(found, template.faces)
        assert measured["silhouette_iou"] > 0.88, measured
        assert measured["crossing"] < 0.05, measured


def test_a_finer_template_goes_on_from_the_coarser_one():
    surfaces = [seen(box(0.2, 0.35, 0.12))]
    config = dataclasses.replace(SMALL, subdivisions=4, steps=4, surface_samples=100)
    vertices, template, history = fit_meshes.fit_meshes(surfaces, config, "test", joint=False)
    assert vertices.shape == (1, 2562, 3)
    assert history[-1][0] == 7  # four steps with 642 vertices, four with 2562
    # New vertices lie between those of the edge that they halve.
    coarse = mesh.icosphere(3)
    edges, _ = mesh.face_neighbours(coarse.faces)
    half_way = torch.nn.functional.normalize(template.vertices[edges].mean(1), dim=1)
    torch.testing.assert_close(template.vertices[642:], half_way)


def test_a_fit_that_diverges_is_an_error():
    surfaces = [seen(box(0.2, 0.35, 0.12))]
    config = dataclasses.replace(SMALL, steps=3, laplacian_weight=1e300)
    with pytest.raises(ValueError, match=r"test, medoid diverged at step 0: try smaller weights"):
        fit_meshes.fit_meshes(surfaces, config, "test")


def test_free_meshes_are_each_like_their_own_cad():
    cads = [box(0.2, 0.35, 0.12), ellipsoid(0.25, 0.4, 0.15)]
    surfaces = [seen(cad) for cad in cads]
    config = dataclasses.replace(SMALL, steps=60)
    both, template, _ = fit_meshes.fit_meshes(surfaces, config, "ceiling", joint=False)
    assert (both[0] - both[1]).abs().max() > 0.05
    for cad, surface, found in zip(cads, surfaces, both, strict=True):
        measured = quality.ShapeQuality(cad, surface, views=6)(found, template.faces)
        assert measured["silhouette_iou"] > 0.93
        floor = surface.diagonal * 0.3 * template.vertices
        far = quality.ShapeQuality(cad, surface, views=6)(floor, template.faces)
        assert far["chamfer_l1"] > 3 * measured["chamfer_l1"]


def test_a_cad_that_stays_far_away_is_tried_from_the_sphere():
    surfaces = [seen(box(0.2, 0.35, 0.12)), seen(ellipsoid(0.25, 0.4, 0.15))]
    config = dataclasses.replace(SMALL, steps=5)

    def fitted(outlier_ratio, least_improvement):
        thresholds = {"outlier_ratio": outlier_ratio, "least_improvement": least_improvement}
        return fit_meshes.fit_meshes(surfaces, config, "test", **thresholds)[0]

    joint = fitted(1e9, 1e9)
    assert torch.equal(fitted(0.0, 0.0), joint)  # tried, and never worth it
    own = fitted(0.0, 1e9)
    assert (own - joint).norm(dim=2).amax(1).min() > 0.01
