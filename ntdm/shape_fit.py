"""`ntdm fit-shapes`: fit Γ(z) of every category to its CADs by vertex-to-face distances (main paper Eq. 2).

Only the surface seen from outside counts (surface.py). Γ starts from a transport plan between the template
and that surface: without one, a sphere laid on an aeroplane leaves a handful of vertices to each wing. Then
Eq. 2 both ways: the nearest face is found without gradient and the distance recomputed from the foot point.
With the foot point's barycentric weights held, its derivative is that of the distance itself, because the
weights minimise it.
"""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ntdm import cache, camera, metrics
from ntdm.config import ShapeConfig, to_dict
from ntdm.deform import DeformableMesh, read_meta, save_shape
from ntdm.mesh import face_normals, sample_surface, write_plain_obj
from ntdm.outputs import finished, sweep
from ntdm.progress import say, track
from ntdm.rasterize import coverage
from ntdm.surface import Cad, NearestFaces, Surface, directions, points_on_faces, visible_surface

PLANS = 2  # transport plans that are averaged: one alone is as rough as its random points
NORMAL_COST = 0.1  # opposite normals cost as much as 0.2 of the diagonal, so that a wing keeps two sides


def transport_targets(surface: Surface, sphere: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Where each template point should go: the optimal one-to-one plan to area-uniform points of the surface.

    Args:
        surface: of one CAD. sphere: [V, 3] template points. scale: [3] the category's half extents.
        generator: of the surface's random points.

    Returns:
        [V, 3]: mean over PLANS plans, CAD units. The cost is the squared distance from scale * sphere, in
        diagonals, plus NORMAL_COST^2 times that of the normals.
    """
    start = torch.cat([scale * sphere / surface.diagonal, NORMAL_COST * sphere], 1)
    total = torch.zeros_like(sphere)
    for _ in range(PLANS):
        pick = torch.randint(len(surface.points), (len(sphere),), generator=generator)
        end = torch.cat([surface.points[pick] / surface.diagonal, NORMAL_COST * surface.normals[pick]], 1)
        _, column = linear_sum_assignment(torch.cdist(start, end).square().numpy())
        total += surface.points[pick[torch.from_numpy(column)]]
    return total / PLANS


class Draw(NamedTuple):
    """Points of one step, at which Eq. 2 is taken.

    Fields:
        wanted [K, P, 3]: of the CADs. vertex [Q]: vertices of Γ.
        face [K, R], weights [K, R, 3]: points of Γ's faces, barycentric; area [K, R]: twice the faces' areas
        when they were drawn.
    """

    wanted: Tensor
    vertex: Tensor
    face: Tensor
    weights: Tensor
    area: Tensor


class ShapeLoss:
    """Eq. 2 and its regularisers for the K meshes of a category; lengths in units of each CAD's diagonal."""

    def __init__(self, model: DeformableMesh, surfaces: Sequence[Surface], config: ShapeConfig) -> None:
        self.faces, self.config, self.surfaces = model.template_faces, config, surfaces
        self.diagonal = torch.tensor([s.diagonal for s in surfaces])[:, None, None]
        self.unit = float(self.diagonal.max())
        self.cads = NearestFaces([(s.vertices.numpy(), s.faces.numpy()) for s in surfaces], self.unit)
        F, V = self.faces, len(model.template_vertices)
        directed = torch.cat([F[:, [0, 1]], F[:, [1, 2]], F[:, [2, 0]]]).sort(1).values
        order = (directed[:, 0] * V + directed[:, 1]).argsort(stable=True)
        self.edges = directed[order][::2]
        self.edge_faces = (order % len(F)).reshape(-1, 2)
        self.degree = torch.bincount(self.edges.reshape(-1), minlength=V)[:, None]

    def draw(self, vertices: Tensor, generator: torch.Generator) -> Draw:
        """The points of one step. On a CAD: by area on its visible surface, and its visible vertices.

        On Γ: a sixth vertices, the rest by area on its faces, which alone notice a face that spans the air
        from handlebar to saddle.
        """
        count = self.config.surface_samples
        wanted = torch.stack([_draw(s, count, generator) for s in self.surfaces])
        areas = self.areas(vertices.detach())
        few = max(1, count // 6)
        face = torch.multinomial(areas, count - few, replacement=True, generator=generator)
        weights = -torch.rand(*face.shape, 3, generator=generator).clamp_min(1e-9).log()
        return Draw(
            wanted,
            torch.randint(vertices.shape[1], (few,), generator=generator),
            face,
            weights / weights.sum(-1, keepdim=True),
            areas.gather(1, face),
        )

    def distance(self, vertices: Tensor, draw: Draw) -> Tensor:
        """Eq. 2 as means: squared distance of the CADs' points to Γ, plus that of Γ's to the CADs.

        vertices [K, V, 3]. The mean over Γ's faces is an integral of its surface, whose area has a
        derivative too: a sheet between two arms cannot go to both, but it can shrink.
        """
        gamma = NearestFaces([(v, self.faces.numpy()) for v in vertices.detach().numpy()], self.unit)
        face, weights, _ = gamma(draw.wanted)
        to_gamma = (points_on_faces(vertices, self.faces[face], weights) - draw.wanted) / self.diagonal
        on_faces = points_on_faces(vertices, self.faces[draw.face], draw.weights)
        points = torch.cat([vertices.index_select(1, draw.vertex), on_faces], 1)
        to_cad = ((points - self.cads(points)[2]) / self.diagonal).square().sum(-1)
        grown = self.areas(vertices).gather(1, draw.face) / draw.area
        few = len(draw.vertex)
        to_cad = torch.cat([to_cad[:, :few], grown * to_cad[:, few:]], 1)
        return to_gamma.square().sum(-1).mean() + to_cad.mean()

    def areas(self, vertices: Tensor) -> Tensor:
        """[K, F]: twice the area of each face; never 0, so that each can be drawn and divided by."""
        return face_normals(vertices, self.faces).norm(dim=-1).clamp_min(1e-12)

    def roughness(self, vertices: Tensor) -> Tensor:
        """Weighted normal consistency (1 - cos over edges) and uniform Laplacian of vertices [K, V, 3]."""
        normals = torch.nn.functional.normalize(face_normals(vertices, self.faces), dim=-1)
        left, right = (normals.index_select(1, self.edge_faces[:, k]) for k in (0, 1))
        bend = (1 - (left * right).sum(-1)).mean()
        unit = vertices / self.diagonal
        a, b = (unit.index_select(1, self.edges[:, k]) for k in (0, 1))
        around = torch.zeros_like(unit).index_add(1, self.edges[:, 0], b).index_add(1, self.edges[:, 1], a)
        laplacian = (unit - around / self.degree).square().sum(-1).mean()
        return self.config.normal_weight * bend + self.config.laplacian_weight * laplacian


def fit(
    surfaces: Sequence[Surface], config: ShapeConfig, label: str
) -> tuple[DeformableMesh, list[list[float]]]:
    """Fit Γ to the K CADs of one category, CAD k at the one-hot latent z_k.

    Returns:
        the model and its history, [step, loss] about forty times. ValueError if the fit diverges.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = DeformableMesh(config, len(surfaces))
    extents = torch.stack([s.points.max(0).values - s.points.min(0).values for s in surfaces])
    with torch.no_grad():
        # A flat category (a picture frame) still needs a sphere, not a disc of no volume.
        model.scale.copy_((extents.mean(0) / 2).clamp_min(0.02 * float(extents.mean(0).norm())))
    scale = model.scale.detach().clone()
    targets = torch.stack([transport_targets(s, model.template_vertices, scale, generator) for s in surfaces])
    loss_of = ShapeLoss(model, surfaces, config)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    history: list[list[float]] = []
    z, steps, start = model.one_hot(), config.steps, int(config.steps * config.transport_share)
    for step in track(range(steps), label):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _rate(step, steps)
        vertices = model(z)
        if step < start:
            loss = ((vertices - targets) / loss_of.diagonal).square().sum(-1).mean()
        else:
            loss = loss_of.distance(vertices, loss_of.draw(vertices, generator))
        loss = loss + loss_of.roughness(vertices)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % max(1, steps // 40) == 0 or step == steps - 1:
            history.append([step, loss.item()])
    if not math.isfinite(history[-1][1]):
        raise ValueError(f"{label} diverged: try a smaller learning_rate than {config.learning_rate}")
    return model, history


def quality(
    vertices: Tensor, faces: Tensor, cad: Cad, surface: Surface, views: int = 48, size: int = 96
) -> dict[str, float]:
    """How well one mesh copies one CAD.

    Args:
        vertices: [V, 3]; faces: [F, 3]; cad, surface: the CAD and its visible surface.
        views: directions of the silhouettes, evenly over the sphere; size: their side in pixels.

    Returns:
        chamfer_l1 in diagonals and f_score at 1 % of it, both against the visible surface, and the mean
        silhouette_iou against the whole CAD.
    """
    generator = torch.Generator().manual_seed(0)
    gamma = NearestFaces([(vertices.numpy(), faces.numpy())], surface.diagonal)
    target = NearestFaces([(surface.vertices.numpy(), surface.faces.numpy())], surface.diagonal)
    ours = sample_surface(vertices, faces, len(surface.points), generator)
    precision = (target(ours[None])[2][0] - ours).norm(dim=1).numpy() / surface.diagonal
    recall = (gamma(surface.points[None])[2][0] - surface.points).norm(dim=1).numpy() / surface.diagonal
    truth, truth_faces = (
        torch.from_numpy(np.asarray(cad[0], np.float32)),
        torch.from_numpy(np.asarray(cad[1], np.int64)),
    )
    used = truth[truth_faces.reshape(-1)]
    centre = (used.min(0).values + used.max(0).values) / 2
    overlaps = []
    for x, y, z in directions(views).tolist():
        viewpoint = torch.tensor([math.atan2(x, -y), math.asin(z), 0.0, 5 * surface.diagonal])
        # A unit diagonal at distance 5 fills 90 % of the picture.
        view = (torch.tensor(4.5 * size), torch.tensor([size / 2, size / 2]), (size, size))
        masks = [
            coverage(camera.cam_from_obj(v - centre, viewpoint), f, *view).numpy()
            for v, f in ((vertices, faces), (truth, truth_faces))
        ]
        overlaps.append(metrics.iou(*masks))
    return {
        "chamfer_l1": metrics.chamfer_l1(precision, recall),
        "f_score": metrics.f_score(precision, recall, 0.01),
        "silhouette_iou": float(np.mean(overlaps)),
    }


def run(
    config: ShapeConfig,
    cache_dir: Path,
    out: Path,
    categories: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Fit every category of a cache and write its latents into the cache files.

    A category is finished when its files are whole; the same command again goes on with the next one.

    Args:
        config: template, network, loss. cache_dir: as prep-data wrote it. out: folder of the shapes.
        categories: those to fit, all by default. overwrite: fit again what was fitted with another config.

    Returns:
        out, with <category>.safetensors, .json and meshes/<category>_<CAD file number>.obj.

    Raises:
        ValueError: no cache file, an unknown category; after all others are done, those that failed and why.
    """
    sweep(Path(out))
    sweep(Path(cache_dir))
    groups: dict[str, list[Path]] = {}
    for path in sorted(Path(cache_dir).glob("*/*/[!.]*.h5")):
        groups.setdefault(path.stem, []).append(path)
    missing = sorted(set(categories or ()) - set(groups))
    if not groups or missing:
        what = f"of category {missing[0]} " if missing else ""
        raise ValueError(f"no cache file {what}below {cache_dir}; `ntdm prep-data` makes them")
    if Path(out).is_file():
        raise ValueError(f"{out} is a file: name a folder for the shapes")
    wanted = [category for category in groups if categories is None or category in categories]
    failures = []
    for category in wanted:
        try:
            _fit_category(category, groups[category], config, Path(out), overwrite)
        except ValueError as error:
            failures.append(f"{category}: {error}")
            say(failures[-1])
    if failures:
        others = f"; the {len(wanted) - len(failures)} others are done" if len(wanted) > len(failures) else ""
        raise ValueError("; ".join(failures) + others)
    return Path(out)


def _fit_category(
    category: str, files: Sequence[Path], config: ShapeConfig, out: Path, overwrite: bool
) -> None:
    cads = _collect_cads(files)
    if not cads:
        raise ValueError(f"no CAD in {files[0]}" + (f" nor {len(files) - 1} more" if len(files) > 1 else ""))
    path = out / f"{category}.safetensors"
    made_with = {**to_dict(config), "cads": _fingerprint(cads)}
    done = path.exists() and path.with_suffix(".json").exists() and not overwrite
    if not (done and finished(path, read_meta(path).get("made_with", {}), made_with, overwrite)):
        start = time.monotonic()
        generator = torch.Generator().manual_seed(config.seed)
        surfaces = [
            visible_surface(cad, generator, f"CAD {k + 1:02d} of {category}")
            for k, cad in track(cads.items(), f"{category}: visible surfaces", len(cads))
        ]
        model, history = fit(surfaces, config, f"{category}: fitting {len(cads)} CADs")
        faces = model.template_faces
        with torch.no_grad():
            shapes = model(model.one_hot())
        measured = []
        for (k, cad), surface, vertices in zip(cads.items(), surfaces, shapes, strict=True):
            write_plain_obj(out / "meshes" / f"{category}_{k + 1:02d}.obj", vertices, faces)
            measured.append(quality(vertices, faces, cad, surface))
        mean = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
        meta = {
            "category": category,
            "cad_index": list(cads),
            "made_with": made_with,
            "quality": {"mean": mean, **{str(k): m for k, m in zip(cads, measured, strict=True)}},
            "history": history,
            "seconds": round(time.monotonic() - start, 1),
        }
        save_shape(path, model, meta)
        say(
            f"{category}: {len(cads)} CADs, silhouette IoU {mean['silhouette_iou']:.3f}, Chamfer-L1 "
            f"{mean['chamfer_l1']:.4f}, F-score {mean['f_score']:.3f}, {meta['seconds']:.0f} s"
        )
    _write_latents(files, list(cads))


def _collect_cads(files: Sequence[Path]) -> dict[int, Cad]:
    """The category's CADs, cad_index ascending; every file that carries CADs must carry the same."""
    cads: dict[int, Cad] = {}
    source = files[0]
    for path in files:
        with cache.CacheFile(path) as file:
            found = file.cads()
        if cads and found and _fingerprint(found) != _fingerprint(cads):
            raise ValueError(f"{path} and {source} carry different CADs; prepare both from the same ones")
        if found and not cads:
            cads, source = found, path
    return cads


def _write_latents(files: Sequence[Path], cad_index: list[int]) -> None:
    """One-hot latents by CAD; a file whose samples have no CAD (cad_index -1) gets none."""
    for path in files:
        with cache.CacheFile(path) as file:
            index, carries = file["cad_index"], bool(file.cads())
            latent = (index[:, None] == np.array(cad_index)[None]).astype(np.float32)
            written = "latent" in file and np.array_equal(file["latent"], latent)
        if not carries or (index < 0).any():
            say(f"{path}: samples without a CAD, no latents written")
            continue
        if not latent.any(1).all():
            missing = index[~latent.any(1)][0] + 1
            raise ValueError(f"{path}: a sample names CAD {missing:02d}, which is not in the file")
        if not written:
            cache.write_latents(path, latent)


def _fingerprint(cads: Mapping[int, Cad]) -> str:
    digest = hashlib.sha256()
    for k, (vertices, faces) in cads.items():
        digest.update(f"{k} {vertices.shape} {faces.shape}".encode())
        digest.update(np.ascontiguousarray(vertices, np.float32).tobytes())
        digest.update(np.ascontiguousarray(faces, np.int32).tobytes())
    return digest.hexdigest()[:16]


def _rate(step: int, steps: int) -> float:
    """Learning-rate factor: up over the first twentieth, then a cosine down to 0.02."""
    rise = min(1.0, (step + 1) / max(1, steps // 20))
    return rise * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def _draw(surface: Surface, count: int, generator: torch.Generator) -> Tensor:
    """count points of a CAD: four fifths by area, the rest vertices, where the details are."""
    few = count // 5
    by_area = torch.randint(len(surface.points), (count - few,), generator=generator)
    at_corners = torch.randint(len(surface.corners), (few,), generator=generator)
    return torch.cat([surface.points[by_area], surface.corners[at_corners]])
