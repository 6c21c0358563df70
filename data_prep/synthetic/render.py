"""Photos of built-in CAD models: framing, materials, light, shading, ground shadow.

An object is rendered on a grid `SUPERSAMPLING` times as fine and shrunk, so its outline is antialiased; truth
(masks, boxes, anchors) comes from the same camera at the photo's own resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ntdm.data_prep.synthetic.solids import Cad
from ntdm.data_prep.synthetic.texture import Array, Family, draw_family, picked
from ntdm.geometry import camera
from ntdm.ops.rasterize import Fragments, coverage, rasterize

SUPERSAMPLING = 2
FRAMING_STEPS = 3  # the framed size is nearly proportional to 1 / distance: three corrections settle it
CONTACT_SHADOW = 0.16  # width of the shadow's soft rim, CAD units
LAMP_GLOW = 0.35  # share of a lamp's colour that needs no light: reflectors look bright from anywhere
ANCHOR_TOLERANCE = 0.02  # CAD units an anchor may lie beneath the visible surface

# material: (specular strength, shininess); colours are drawn in _material_colour
GLOSS = {
    "paint": (0.35, 40.0),
    "paint2": (0.3, 30.0),
    "glass": (0.8, 60.0),
    "metal": (0.6, 30.0),
    "frame": (0.2, 20.0),
    "tyre": (0.08, 8.0),
    "dark": (0.12, 12.0),
    "headlight": (0.7, 50.0),
    "taillight": (0.5, 40.0),
}


@dataclass(frozen=True)
class View:
    """The exact camera of a photo, in ntdm's frames (corner-origin pixels)."""

    viewpoint: Array  # [4] azimuth, elevation, theta (radians), distance (CAD units)
    principal_point: Array  # [2] x, y
    size: tuple[int, int]  # H, W

    def points_cam(self, points: Array) -> torch.Tensor:
        """Object points [V, 3] in the camera frame, float64."""
        return camera.cam_from_obj(torch.as_tensor(points), torch.as_tensor(self.viewpoint))

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixels [V, 2] and depths [V] of object points [V, 3]."""
        xy, depth = camera.project(
            self.points_cam(points),
            torch.tensor(camera.PASCAL3D_FOCAL_PX, dtype=torch.float64),
            torch.as_tensor(self.principal_point),
        )
        return xy.numpy(), depth.numpy()

    def mask(self, cad: Cad) -> NDArray[np.bool_]:
        """Amodal mask [H, W]: the model projected, two-sided, a pixel set where its centre is covered."""
        return coverage(
            self.points_cam(cad.vertices),
            torch.as_tensor(cad.faces),
            torch.tensor(camera.PASCAL3D_FOCAL_PX, dtype=torch.float64),
            torch.as_tensor(self.principal_point),
            self.size,
        ).numpy()


@dataclass(frozen=True)
class Cutout:
    """A rendered object at `corner` (row, column) of its photo."""

    premultiplied: Array  # [h, w, 3] colour times alpha
    alpha: Array  # [h, w]
    corner: tuple[int, int]
    depth: Array  # of the surface on the fine grid, CAD units, inf beside it

    def over(self, picture: Array) -> None:
        """Composite onto `picture` [H, W, 3] in place; the cut-out must lie inside."""
        (row, column), (height, width) = self.corner, self.alpha.shape
        patch = picture[row : row + height, column : column + width]
        patch *= 1 - self.alpha[..., None]
        patch += self.premultiplied


def frame(cad: Cad, angles: Array, size: tuple[int, int], fill: float, place: tuple[float, float]) -> View:
    """The view in which the model fills `fill` of the photo.

    Args:
        cad: the model.
        angles: azimuth, elevation, theta [3], radians.
        size: H, W of the photo.
        fill: share of the photo's width or height, whichever is reached first, that the model spans.
        place: (x, y) in 0..1, where in the remaining slack it stands.
    """
    height, width = size
    turned = cad.outline @ camera.rotation(torch.as_tensor(angles)).numpy().T  # all but the distance
    distance = camera.PASCAL3D_FOCAL_PX / max(size)
    for _ in range(FRAMING_STEPS):
        low, high = _extent(turned, distance)
        distance *= max((high - low) / (fill * np.array([width, height])))
    low, high = _extent(turned, distance)
    slack = np.array([width, height]) - (high - low)
    return View(np.array([*angles, distance]), slack * np.asarray(place) - low, size)


def _extent(turned: Array, distance: float) -> tuple[Array, Array]:
    """Lowest and highest x, y in pixels from the principal point, of points [V, 3] turned to the camera."""
    xy = turned[:, :2] * [1, -1] * (camera.PASCAL3D_FOCAL_PX / (distance - turned[:, 2:]))
    return xy.min(0), xy.max(0)


def visible_anchors(cad: Cad, view: View, cutout: Cutout) -> dict[str, tuple[Array, int]]:
    """Each anchor's pixel (x, y) and PASCAL3D+ status: 1 visible, 2 self-occluded, 4 outside.

    cutout: the same model, rendered in the same view.
    """
    if not cad.anchors:
        return {}
    points = np.stack(list(cad.anchors.values()))
    xy, depth = view.project(points)
    cells = np.floor((xy[:, ::-1] - cutout.corner) * SUPERSAMPLING).astype(int)
    result = {}
    for name, pixel, z, cell in zip(cad.anchors, xy, depth, cells, strict=True):
        outside = (pixel < 0).any() or (pixel >= view.size[::-1]).any()
        on_grid = (cell >= 0).all() and (cell < cutout.depth.shape).all()
        hidden = on_grid and z > cutout.depth[tuple(cell)] + ANCHOR_TOLERANCE
        result[name] = (pixel, 4 if outside else 2 if hidden else 1)
    return result


def render(cad: Cad, view: View, rng: np.random.Generator, unseen_texture: bool = False) -> Cutout:
    """The model in materials and light drawn from `rng`.

    Args:
        cad: the model.
        view: the camera; what lies outside the photo is cut off.
        rng: decides colours, textures and light.
        unseen_texture: paint from the texture families that training never shows.
    """
    fragments, corner = _rasterize(cad, view)
    face_map = fragments.face_index[0].numpy()
    # take: indexing is four times as slow
    hit = np.flatnonzero(face_map >= 0)
    face = face_map.take(hit)
    weights = fragments.barycentric[0].numpy().reshape(-1, 3).T.take(hit, 1)
    corners, vertices = cad.faces.T.take(face, 1), cad.vertices.T.astype(np.float32)
    points = _interpolated([vertices.take(vertex, 1) for vertex in corners], weights)
    normals = _interpolated([cad.corner_normals[:, k].T.take(face, 1) for k in range(3)], weights)
    owner = _owner(cad, face, points, normals)
    colour = _albedo(cad, owner, points, rng, unseen_texture)
    shaded = _shade(colour, owner, cad.materials, points, normals, view, rng)
    # the number of each fine pixel among those hit; what nothing hits is the zero behind them
    number = np.full(face_map.shape, len(hit), np.int32)
    number.ravel()[hit] = np.arange(len(hit), dtype=np.int32)
    channels = np.concatenate([np.clip(shaded.T, 0, 1), np.zeros((3, 1), np.float32)], 1)
    grid = [number[i::SUPERSAMPLING, j::SUPERSAMPLING] for i, j in np.ndindex(SUPERSAMPLING, SUPERSAMPLING)]
    colours = [channels.take(cell, 1) for cell in grid]
    premultiplied = np.add.reduce(colours) / len(grid)
    alpha = np.stack([cell < len(hit) for cell in grid]).mean(0, np.float32)
    return Cutout(premultiplied.transpose(1, 2, 0), alpha, corner, fragments.depth[0].numpy())


def cast_ground_shadow(cad: Cad, view: View, strength: float, picture: Array) -> None:
    """Darken the ground under the model by up to `strength`, in place; nothing where that is not seen.

    picture: [H, W, 3] in 0..1.
    """
    if np.sin(view.viewpoint[1]) < 0.05:
        return
    low, high = cad.outline.min(0), cad.outline.max(0)
    reach = np.maximum(-low, high)[:2] + CONTACT_SHADOW
    rim, _ = view.project(
        np.array([[x, y, low[2]] for x in (-reach[0], reach[0]) for y in (-reach[1], reach[1])])
    )
    column, row = np.clip(np.floor(rim.min(0)).astype(int), 0, view.size[::-1])
    end_column, end_row = np.clip(np.ceil(rim.max(0)).astype(int), 0, view.size[::-1])
    x = (np.arange(column, end_column) + 0.5 - view.principal_point[0]) / camera.PASCAL3D_FOCAL_PX
    y = (view.principal_point[1] - np.arange(row, end_row) - 0.5) / camera.PASCAL3D_FOCAL_PX
    R = camera.rotation(torch.as_tensor(view.viewpoint)).numpy().astype(np.float32)
    rays = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), -1, dtype=np.float32) @ R
    centre = camera.camera_centre(torch.as_tensor(view.viewpoint)).float().numpy()
    steps = (np.float32(low[2]) - centre[2]) / rays[..., 2]
    # distance to the footprint, rounded: the blob is a soft rectangle
    beyond_x, beyond_y = (
        np.maximum(np.abs(centre[k] + rays[..., k] * steps) - np.float32(0.85 * high[k]), 0) for k in (0, 1)
    )
    blob = np.clip(1 - np.sqrt(beyond_x**2 + beyond_y**2) / CONTACT_SHADOW, 0, 1) ** 2
    picture[row:end_row, column:end_column] *= 1 - strength * blob[..., None]


def _rasterize(cad: Cad, view: View) -> tuple[Fragments, tuple[int, int]]:
    """The part of the photo that the model covers, on the fine grid, and its corner (row, column)."""
    xy, _ = view.project(cad.outline)
    limit = np.array([view.size[1], view.size[0]])
    low = np.clip(np.floor(xy.min(0)).astype(int), 0, limit - 1)
    width, height = (np.clip(np.ceil(xy.max(0)).astype(int), low + 1, limit) - low).tolist()
    fragments = rasterize(
        view.points_cam(cad.vertices).float()[None],
        torch.as_tensor(cad.faces),
        torch.tensor([camera.PASCAL3D_FOCAL_PX * SUPERSAMPLING], dtype=torch.float32),
        torch.as_tensor((view.principal_point - low) * SUPERSAMPLING, dtype=torch.float32)[None],
        (height * SUPERSAMPLING, width * SUPERSAMPLING),
    )
    return fragments, (int(low[1]), int(low[0]))


def _owner(cad: Cad, face: NDArray[np.int64], points: Array, normals: Array) -> NDArray[np.int64]:
    """The material [N] at points [N, 3] of the faces [N]: the face's own, or a band over its paint."""
    owner = cad.face_material.take(face)
    if cad.bands:
        painted = np.isin(owner, [k for k, name in enumerate(cad.materials) if name.startswith("paint")])
        lean = np.abs(_unit(normals)[:, 2])
    for band in cad.bands:
        inside = (points[:, 2] > band.low) & (points[:, 2] < band.high) & (lean <= band.steepest)
        owner = np.where(painted & inside, cad.materials.index(band.material), owner)
    return owner


def _material_colour(material: str, rng: np.random.Generator) -> Array:
    """The colour of a material whose look is typical of its part."""
    if material == "glass":
        return np.array([0.09, 0.13, 0.22]) * rng.uniform(0.6, 1.7) + rng.normal(0, 0.015, 3)
    if material == "tyre":
        return np.full(3, rng.uniform(0.05, 0.12))
    if material == "dark":
        return np.full(3, rng.uniform(0.1, 0.2)) + rng.normal(0, 0.01, 3)
    if material == "metal":
        return np.full(3, rng.uniform(0.5, 0.78)) + rng.normal(0, 0.015, 3)
    if material == "headlight":
        return np.array([0.97, 0.95, 0.84]) - rng.uniform(0, 0.1)
    if material == "taillight":
        return np.array([0.78, 0.07, 0.06]) * rng.uniform(0.75, 1.15)
    if material == "frame":  # legs and frames: wood, metal or lacquer
        wood = np.array([0.45, 0.28, 0.15]) * rng.uniform(0.5, 1.6)
        grey = np.full(3, rng.choice([0.1, 0.55, 0.85]) + rng.uniform(-0.05, 0.05))
        return wood if rng.random() < 0.5 else grey
    raise AssertionError(f"material {material!r} has no colour")


def _albedo(
    cad: Cad, owner: NDArray[np.int64], points: Array, rng: np.random.Generator, unseen: bool
) -> Array:
    """Colours [N, 3] before light, for points [N, 3] of the materials `owner` [N]."""
    paint: Family = draw_family(rng, unseen, plain=0.4)
    second: Family | None = draw_family(rng, unseen, plain=0.5) if rng.random() < 0.6 else None
    paint_seed = rng.integers(2**32)
    parts = dict(zip(cad.materials, rng.spawn(len(cad.materials)), strict=True))
    typical = [
        np.zeros(3) if name in ("paint", "paint2") else _material_colour(name, parts[name])
        for name in cad.materials
    ]
    colour = np.array(typical, np.float32).T.take(owner, 1).T
    for index, name in enumerate(cad.materials):
        if name in ("paint", "paint2"):
            where = np.flatnonzero(owner == index)
            if name == "paint2" and second is not None:
                painted = second(picked(points, where), parts[name])
            else:  # one generator seed for both: without a second paint the whole body is of one piece
                painted = paint(picked(points, where), type(rng)(np.random.PCG64(paint_seed)))
            colour.T[:, where] = painted.T
    return np.clip(colour, 0.02, 1, out=colour)


def _shade(
    colour: Array,
    owner: NDArray[np.int64],
    materials: tuple[str, ...],
    points: Array,
    normals: Array,
    view: View,
    rng: np.random.Generator,
) -> Array:
    """Hemispheric ambient + Lambert + Blinn-Phong under one distant lamp and a weak fill light."""
    eye = _unit(camera.camera_centre(torch.as_tensor(view.viewpoint)).float().numpy() - points)
    normals = _unit(normals)
    normals *= np.where(_dot(normals, eye) < 0, np.float32(-1), np.float32(1))[:, None]  # two-sided
    turn, height = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(20, 80))
    lamp = np.array(
        [np.cos(height) * np.cos(turn), np.cos(height) * np.sin(turn), np.sin(height)], np.float32
    )
    tint = (1 + rng.normal(0, 0.04, 3)).astype(np.float32)
    ambient = rng.uniform(0.4, 0.6) * (0.8 + 0.2 * normals[:, 2])
    diffuse = rng.uniform(0.5, 0.85) * np.maximum(normals @ lamp, 0)
    diffuse += rng.uniform(0.05, 0.2) * np.maximum(normals @ (lamp * np.array([-1, -1, 0.3], np.float32)), 0)
    light = ambient + diffuse
    glowing = np.array([m.endswith("light") for m in materials]).take(owner)
    light = np.where(glowing, LAMP_GLOW + light, light)
    strength, shininess = np.array([GLOSS[m] for m in materials], np.float32).T
    facing = np.maximum(_dot(normals, _unit(lamp + eye)), np.float32(1e-6))
    shine = strength.take(owner) * np.exp(
        shininess.take(owner) * np.log(facing)
    )  # six times as fast as a power
    return colour * light[:, None] * tint + (rng.uniform(0.3, 1.0) * shine)[:, None]


# Vectors are added up column by column: numpy's reductions over an axis of three are five times as slow.


def _interpolated(corners: Sequence[Array], weights: Array) -> Array:
    """Values [N, 3] inside N triangles from those at their three corners, each [3, N], by weights [3, N]."""
    terms = [corner * weight for corner, weight in zip(corners, weights, strict=True)]
    return (terms[0] + terms[1] + terms[2]).T


def _dot(a: Array, b: Array) -> Array:
    """Scalar products [N] of vectors [N, 3]."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _unit(vectors: Array) -> Array:
    """Vectors [N, 3] at length 1."""
    return vectors / np.sqrt(_dot(vectors, vectors))[:, None]
