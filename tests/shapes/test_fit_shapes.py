"""visible_surface.py and fit.py: what is visible, quality of the fit, the stage on a cache."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ntdm import fit_shapes
from ntdm.config.stages import ShapeConfig
from ntdm.geometry import mesh
from ntdm.io import cache
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.shapes import fit, quality, surface_loss, visible_surface
from ntdm.shapes.files import load_shape, read_meta
from simple_cads import box, ellipsoid, join, seen

RADII = ([0.2, 0.4, 0.2], [0.4, 0.2, 0.1], [0.2, 0.2, 0.6])
SMALL = ShapeConfig(subdivisions=2, width=32, layers=2, frequencies=4, steps=80, surface_samples=500)


def test_visible_surface_leaves_the_inside_out_whatever_the_winding():
    hull, engine = ellipsoid(0.3, 0.5, 0.2), box(0.1, 0.1, 0.05)
    vertices, faces = join(hull, engine)
    faces = np.where((np.arange(len(faces)) % 2 == 0)[:, None], faces[:, ::-1], faces)
    found = seen((vertices, faces))
    assert len(found.faces) == len(hull[1])
    assert found.faces.max() < len(hull[0])
    assert found.diagonal == pytest.approx(2 * math.sqrt(0.3**2 + 0.5**2 + 0.2**2), rel=0.01)
    outside = (found.points / torch.tensor([0.3, 0.5, 0.2])).norm(dim=1)
    assert outside.min() > 0.97
    assert len(found.corners) == len(hull[0])
    # The normal of an ellipsoid is p / r^2.
    expected = torch.nn.functional.normalize(found.points / torch.tensor([0.3, 0.5, 0.2]) ** 2, dim=1)
    assert (found.normals * expected).sum(1).min() > 0.9


@pytest.mark.parametrize(
    ("cad", "message"),
    [
        ((np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32)), "CAD 07 has 3 vertices and 0 faces"),
        ((np.zeros((3, 3), np.float32), np.array([[0, 1, 2]])), "without area"),
        ((np.zeros((3, 3), np.float32), np.array([[0, 1, 3]])), "names vertex 3 of 3"),
        ((np.zeros((3, 3), np.float32), np.array([[0, 1, 2], [0, -5, 1]])), "names vertex -5 of 3"),
        ((np.full((3, 3), np.nan, np.float32), np.array([[0, 1, 2]])), "not finite"),
        ((np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])), "has 1 of the 4 faces"),
        ((np.eye(4, 3, dtype=np.float32), np.array([[0, 1, 2, 3]])), r"want triangles \(F, 3\)"),
        ((np.eye(3, dtype=np.float32), np.zeros((10**7, 3), np.int8)), "10000000 faces: reduce it"),
        (ellipsoid(250.0, 400.0, 150.0), r"diagonal of .* \(is it in millimetres\?\)"),
        (ellipsoid(0.002, 0.004, 0.002), r"diagonal of 0.009798 units: want about 1; divide its vertices by"),
        (ellipsoid(0.2, 0.4, 0.2, centre=(3.0, 0, 0)), r"centre at \(3, 0, 0\)"),
    ],
)
def test_visible_surface_names_a_broken_cad(cad, message):
    with pytest.raises(ValueError, match=message):
        visible_surface.visible_surface(cad, torch.Generator(), "CAD 07")


def test_the_loss_has_the_derivative_of_the_distances():
    torch.manual_seed(0)
    model = DeformableMesh(SMALL, 2)
    loss_of = surface_loss.ShapeLoss(
        model.template_faces, [seen(box(0.4, 0.3, 0.2)), seen(ellipsoid(0.3, 0.4, 0.2))], SMALL
    )
    vertices = (model(model.one_hot()) * 0.8).detach().requires_grad_()
    draw = loss_of.draw(vertices, torch.Generator().manual_seed(3))
    loss = lambda v: loss_of.distance(v, draw).mean()  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(vertices), vertices)
    direction = torch.nn.functional.normalize(torch.randn(vertices.shape), dim=-1)
    step = 2e-3
    with torch.no_grad():
        numeric = (loss(vertices + step * direction) - loss(vertices - step * direction)) / (2 * step)
    # float32 losses of about 0.01 differ by 1e-9 a rounding, over a step of 4e-3.
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=0.01)


def test_a_sheet_in_the_air_is_told_to_shrink():
    """Two walls, Γ a bar across: from its middle the nearest points are level with it, to the sides."""
    vertices, faces = box(0.05, 0.1, 0.1)
    cad = join((vertices - np.float32([0.4, 0, 0]), faces), (vertices + np.float32([0.4, 0, 0]), faces))
    model = DeformableMesh(SMALL, 1)
    loss_of = surface_loss.ShapeLoss(model.template_faces, [seen(cad)], SMALL)
    sphere = model.template_vertices
    vertices = (sphere * torch.tensor([0.5, 0.08, 0.08]))[None].requires_grad_()
    draw = loss_of.draw(vertices, torch.Generator().manual_seed(0))
    # Faces are drawn by area: the few that lie across the middle get their share.
    areas = loss_of.areas(vertices.detach())[0]
    middle = (sphere[loss_of.faces].mean(1)[:, 0].abs() < 0.6)[draw.face[0]].float().mean()
    expected = areas[sphere[loss_of.faces].mean(1)[:, 0].abs() < 0.6].sum() / areas.sum()
    assert middle.item() == pytest.approx(expected.item(), abs=0.05)
    (gradient,) = torch.autograd.grad(loss_of.distance(vertices, draw).sum(), vertices)
    waist = sphere[:, 0].abs() < 0.3
    outward = torch.nn.functional.normalize(sphere[waist, 1:], dim=1)
    # Down the gradient the waist gets thinner; the distances alone are the same for any thickness.
    inwards = (gradient[0, waist, 1:] * outward).sum(1).mean()
    assert inwards > 0.05 * gradient[0, waist].norm(dim=1).mean()


def test_roughness_prefers_the_sphere():
    model = DeformableMesh(SMALL, 1)
    loss_of = surface_loss.ShapeLoss(model.template_faces, [seen(box(0.4, 0.3, 0.2))], SMALL)
    smooth = 0.4 * model.template.vertices[None]
    rough = smooth * (1 + 0.1 * torch.randn(len(smooth[0]), 1, generator=torch.Generator().manual_seed(0)))
    assert loss_of.roughness(rough) > 2 * loss_of.roughness(smooth)
    assert len(loss_of.edges) == 480
    assert set(loss_of.degree.flatten().tolist()) == {5, 6}


def test_fit_copies_simple_cads_and_repeats_itself():
    cads = [ellipsoid(0.25, 0.4, 0.15), box(0.2, 0.35, 0.12)]
    surfaces = [seen(cad) for cad in cads]
    model, _, history = fit.fit(surfaces, SMALL, "test")
    assert history[-1][1] < 0.25 * history[0][1]
    with torch.no_grad():
        shapes = model(model.one_hot())
    for cad, found, vertices in zip(cads, surfaces, shapes, strict=True):
        measured = quality.ShapeQuality(cad, found, views=12)(vertices, model.template_faces)
        assert measured["silhouette_iou"] > 0.93, measured
        assert measured["chamfer_l1"] < 0.015, measured
    short = dataclasses.replace(SMALL, steps=6, network_steps=6)
    first, second = (fit.fit(surfaces, short, "test")[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_quality_of_the_cad_itself_is_perfect():
    cad = ellipsoid(0.25, 0.4, 0.15, centre=(0.1, 0.0, 0.0))
    measured = quality.ShapeQuality(cad, seen(cad), views=6)(
        torch.from_numpy(cad[0]), torch.from_numpy(cad[1]).long()
    )
    assert measured["silhouette_iou"] == 1
    assert measured["f_score"] == 1
    assert measured["chamfer_l1"] < 1e-5


def test_one_hot_latents_give_the_meshes_and_others_their_mixtures():
    sphere = mesh.icosphere(2).vertices
    meshes = torch.stack(
        [sphere * torch.tensor(r) for r in ([0.2, 0.4, 0.2], [0.4, 0.2, 0.1], [0.2, 0.2, 0.6])]
    )
    config = dataclasses.replace(SMALL, network_steps=120)
    model = fit.fit_network(meshes, config, "test")
    with torch.no_grad():
        torch.testing.assert_close(model(model.one_hot()), meshes)
        half = model(torch.tensor([[0.5, 0.5, 0.0]]))[0]
        learnt = model.scale * (sphere + model.network(model.one_hot()))
    assert (half - meshes[:2].mean(0)).norm(dim=1).mean() < 0.02
    # Ellipsoids are smooth: the network alone knows them.
    assert (learnt - meshes).norm(dim=2).mean() < 0.02
    again = fit.fit_network(meshes, config, "test").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def write_cache(path, cads, cad_index):
    dataset, split, category = path.parts[-3], path.parts[-2], path.stem
    mask = np.ones((16, 16), np.uint8)
    with cache.CacheWriter(
        path, dataset=dataset, split=split, category=category, image_size=(16, 16), config={}, cads=cads
    ) as writer:
        for i, k in enumerate(cad_index):
            sample = {"name": f"a{i}", "source": f"a{i}.jpg", "image": np.zeros((16, 16, 3), np.uint8)}
            camera = {
                "viewpoint": np.array([0.0, 0, 0, 5]),
                "focal": 60.0,
                "bbox": np.array([0.0, 0, 16, 16]),
            }
            point = np.array([8.0, 8.0])
            masks = {"amodal_mask": mask, "visible_mask": mask}
            writer.add(cache.Sample(**sample, **camera, **masks, principal_point=point, cad_index=k))


def test_run_fits_categories_writes_latents_and_goes_on_past_a_broken_cad(tmp_path):
    good = {0: ellipsoid(0.2, 0.4, 0.2, subdivisions=2), 3: box(0.2, 0.3, 0.2)}
    write_cache(tmp_path / "cache/pascal3d/train/car.h5", good, [3, 0, 3])
    write_cache(tmp_path / "cache/pascal3d/val/car.h5", good, [0])
    broken = {1: (np.zeros((4, 3), np.float32), np.zeros((2, 3), np.int32))}
    write_cache(tmp_path / "cache/pascal3d/train/boat.h5", broken, [1])
    write_cache(tmp_path / "cache/pascal3d/train/sofa.h5", {2: good[0]}, [2])
    config = dataclasses.replace(SMALL, subdivisions=1, steps=8, network_steps=4)
    out = tmp_path / "shapes"
    with pytest.raises(
        ValueError, match="boat: CAD 02 of boat has faces without area: nothing to fit; the 2 others are done"
    ):
        fit_shapes.run(config, tmp_path / "cache", out)
    assert sorted(p.name for p in out.iterdir()) == [
        "car.json", "car.safetensors", "meshes", "sheets", "sofa.json", "sofa.safetensors",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "meshes").iterdir()) == [
        "car_01.obj", "car_01_to_04_25.obj", "car_01_to_04_50.obj", "car_01_to_04_75.obj", "car_04.obj",
        "car_mean.obj", "sofa_03.obj", "sofa_mean.obj",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "sheets").iterdir()) == ["car.png", "sofa.png"]
    with cache.CacheFile(tmp_path / "cache/pascal3d/train/car.h5") as file:
        assert file["latent"].tolist() == [[0, 1], [1, 0], [0, 1]]
    with cache.CacheFile(tmp_path / "cache/pascal3d/train/sofa.h5") as file:
        assert file["latent"].tolist() == [[1]]
    assert load_shape(out / "car.safetensors").num_latents == 2
    meta = read_meta(out / "car.safetensors")
    assert meta["cad_index"] == [0, 3]
    assert set(meta["quality"]) == {"mean", "0", "3"}

    # Half way along a latent is the mean of two CADs.
    halfway = (out / "meshes/car_01_to_04_50.obj").read_text().splitlines()
    assert [line for line in halfway if line[:2] == "v "] == [
        line for line in (out / "meshes/car_mean.obj").read_text().splitlines() if line[:2] == "v "
    ]

    before = (out / "car.safetensors").stat().st_mtime_ns
    assert fit_shapes.run(config, tmp_path / "cache", out, ["car"]) == out
    assert (out / "car.safetensors").stat().st_mtime_ns == before
    other = dataclasses.replace(config, steps=9)
    with pytest.raises(ValueError, match=r"steps: 8 -> 9.*--overwrite"):
        fit_shapes.run(other, tmp_path / "cache", out, ["car"])
    fit_shapes.run(other, tmp_path / "cache", out, ["car"], overwrite=True)
    assert json.loads((out / "car.json").read_text())["config"]["steps"] == 9


def test_run_refuses_an_empty_cache_unknown_categories_and_different_cads(tmp_path):
    with pytest.raises(ValueError, match="no cache file below"):
        fit_shapes.run(SMALL, tmp_path, tmp_path / "out")
    write_cache(tmp_path / "pascal3d/train/car.h5", {0: box(0.2, 0.3, 0.2)}, [0])
    write_cache(tmp_path / "ood_cv/iid/car.h5", {0: box(0.2, 0.3, 0.1)}, [0])
    with pytest.raises(ValueError, match="no cache file of category boat"):
        fit_shapes.run(SMALL, tmp_path, tmp_path / "out", ["boat"])
    with pytest.raises(ValueError, match="carry different CADs"):
        fit_shapes.run(SMALL, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fit_that_diverges_stops_its_category_alone(tmp_path):
    cads = {name: lambda: {0: box(0.2, 0.3, 0.2)} for name in ("car", "sofa")}
    config = dataclasses.replace(SMALL, steps=2, laplacian_weight=1e300)
    with pytest.raises(ValueError, match=r"^car: fitting 1 CADs, medoid diverged at .*; sofa: fitting"):
        fit_shapes.run(config, None, tmp_path / "out", cads=cads)
    assert not (tmp_path / "out").exists()


def test_latents_of_an_unseen_cad_lie_between_those_of_its_neighbours(tmp_path):
    long, short = ellipsoid(0.2, 0.45, 0.15), ellipsoid(0.2, 0.25, 0.15)
    config = dataclasses.replace(SMALL, steps=60)
    fit_shapes.run(config, None, tmp_path, cads={"car": lambda: {0: long, 1: short}})
    unseen = {5: ellipsoid(0.2, 0.36, 0.15)}
    write_cache(tmp_path / "cache/pascal3d/val/car.h5", unseen, [5, 5])
    weights = (tmp_path / "car.safetensors").read_bytes()
    fit_shapes.run(config, tmp_path / "cache", tmp_path, frozen=True)
    assert (tmp_path / "car.safetensors").read_bytes() == weights
    content = json.loads((tmp_path / "latents/car.json").read_text())
    assert list(content["latents"]) == ["5"]
    assert content["history"][-1][1] < 0.5 * content["history"][0][1]
    assert content["quality"]["mean"]["silhouette_iou"] > 0.9
    with cache.CacheFile(tmp_path / "cache/pascal3d/val/car.h5") as file:
        assert file["latent"].tolist() == [content["latents"]["5"]] * 2
        vertices = load_shape(tmp_path / "car.safetensors")(torch.from_numpy(file["latent"][:1]))[0]
    length = (vertices[:, 1].max() - vertices[:, 1].min()).item()
    assert length == pytest.approx(0.72, abs=0.05)

    # A file of latents that does not hold what it should is named.
    whole = (tmp_path / "latents/car.json").read_text()
    for damage in (whole[:-9], whole.replace('"5": [', '"5": [0.5, '), "[]"):
        (tmp_path / "latents/car.json").write_text(damage)
        with pytest.raises(ValueError, match=r"^car: .*car\.json is damaged: pass --overwrite"):
            fit_shapes.run(config, tmp_path / "cache", tmp_path, frozen=True)
    (tmp_path / "latents/car.json").write_text(whole)

    # The same command again changes nothing; without a shape there is nothing to look for.
    before = (tmp_path / "latents/car.json").stat().st_mtime_ns
    fit_shapes.run(config, tmp_path / "cache", tmp_path, frozen=True)
    assert (tmp_path / "latents/car.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"car: .*car\.json does not exist"):
        fit_shapes.run(config, tmp_path / "cache", tmp_path / "other", frozen=True)


def test_folds_are_found():
    sphere = mesh.icosphere(2)
    assert quality.folds(sphere.vertices, sphere.faces) == {"flipped": 0, "crossing": 0}
    # One vertex pulled through the other side: its faces cross those there.
    pierced = sphere.vertices.clone()
    pierced[0] *= -1.5
    found = quality.folds(pierced, sphere.faces)
    assert 5 / 320 <= found["crossing"] < 0.2
    # One face turned over in its own plane, by two corners exchanged past each other.
    flat = sphere.vertices * torch.tensor([1.0, 1, 0.05])
    folded = flat.clone()
    a, b, c = sphere.faces[flat[sphere.faces].mean(1)[:, 2].argmax()].tolist()
    folded[a] += 1.6 * ((flat[b] + flat[c]) / 2 - flat[a])
    assert quality.folds(flat, sphere.faces)["flipped"] == 0
    assert quality.folds(folded, sphere.faces)["flipped"] >= 1 / 320


def test_transfer_carries_anchors_through_the_template():
    sphere = mesh.icosphere(3)
    shapes = torch.stack([sphere.vertices * torch.tensor(r) for r in ([0.2, 0.4, 0.2], [0.2, 0.2, 0.4])])
    surfaces = [seen((s.numpy(), sphere.faces.numpy())) for s in shapes]
    tips = [{"front": np.array([0, -r, 0]), "top": np.array([0, 0, h])} for r, h in ((0.4, 0.2), (0.2, 0.4))]
    tips[0]["only here"] = np.zeros(3)
    ours, baseline = quality.transfer(shapes, sphere.faces, surfaces, tips)
    assert len(ours) == len(baseline) == 4
    assert ours.max() < 0.02
    # The front of the long one is 0.4 away from where the short one has it; its nearest point is that front.
    assert baseline.max() > 0.1
    nothing = quality.transfer(shapes, sphere.faces, surfaces, [{}, tips[1]])
    assert [len(errors) for errors in nothing] == [0, 0]
