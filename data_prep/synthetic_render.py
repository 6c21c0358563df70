"""Photos of built-in CAD models: framing, materials, light, shading, ground shadow.

An object is rendered on a grid `SUPERSAMPLING` times as fine and shrunk, so its outline is antialiased; truth
(masks, boxes, anchors) comes from the same camera at the photo's own resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ntdm import camera
from ntdm.data_prep.synthetic_cad import Cad
from ntdm.data_prep.synthetic_texture import Array, Family, draw_family
from ntdm.rasterize import Fragments, coverage, rasterize

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
    """Colour times alpha [h, w, 3] and alpha [h, w] of an object at `corner` (row, column) of its photo."""

    premultiplied: Array
    alpha: Array
    corner: tuple[int, int]

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
    distance = camera.PASCAL3D_FOCAL_PX / max(size)
    for _ in range(FRAMING_STEPS):
        view = View(np.array([*angles, distance]), np.zeros(2), size)
        xy, _ = view.project(cad.outline)
        low, high = xy.min(0), xy.max(0)
        distance *= max((high - low) / (fill * np.array([width, height])))
    view = View(np.array([*angles, distance]), np.zeros(2), size)
    xy, _ = view.project(cad.outline)
    low, high = xy.min(0), xy.max(0)
    slack = np.array([width, height]) - (high - low)
    return View(view.viewpoint, slack * np.asarray(place) - low, size)


def visible_anchors(cad: Cad, view: View) -> dict[str, tuple[Array, int]]:
    """Each anchor's pixel (x, y) and PASCAL3D+ status: 1 visible, 2 self-occluded, 4 outside."""
    if not cad.anchors:
        return {}
    points = np.stack(list(cad.anchors.values()))
    xy, depth = view.project(points)
    fragments = _rasterize(cad, view.points_cam(cad.vertices), view.principal_point, view.size, 1)
    surface = fragments.depth[0].numpy()
    result = {}
    for name, (x, y), z in zip(cad.anchors, xy, depth, strict=True):
        row, column = int(np.floor(y)), int(np.floor(x))
        inside = 0 <= row < view.size[0] and 0 <= column < view.size[1]
        hidden = inside and z > surface[row, column] + ANCHOR_TOLERANCE
        result[name] = (np.array([x, y]), 4 if not inside else 2 if hidden else 1)
    return result


def render(cad: Cad, view: View, rng: np.random.Generator, unseen_texture: bool = False) -> Cutout:
    """The model in materials and light drawn from `rng`.

    Args:
        cad: the model.
        view: the camera; what lies outside the photo is cut off.
        rng: decides colours, textures and light.
        unseen_texture: paint from the texture families that training never shows.
    """
    xy, _ = view.project(cad.outline)
    limit = np.array([view.size[1], view.size[0]])
    low = np.clip(np.floor(xy.min(0)).astype(int), 0, limit - 1)
    high = np.clip(np.ceil(xy.max(0)).astype(int), low + 1, limit)
    width, height = (high - low).tolist()
    fragments = _rasterize(
        cad, view.points_cam(cad.vertices), view.principal_point - low, (height, width), SUPERSAMPLING
    )
    face_map = fragments.face_index[0].numpy()
    # take: indexing whole rows is four times as slow
    hit = np.flatnonzero(face_map >= 0)
    face = face_map.take(hit)
    weights = fragments.barycentric[0].numpy().reshape(-1, 3).take(hit, 0).astype(float)
    corners = cad.faces.take(face, 0).T
    points = _interpolated([cad.vertices.take(corner, 0) for corner in corners], weights)
    normals = _interpolated([cad.corner_normals[:, k].take(face, 0) for k in range(3)], weights)
    owner = _owner(cad, face, points, normals)
    colour = _albedo(cad, owner, points, rng, unseen_texture)
    shaded = _shade(colour, owner, cad.materials, points, normals, view, rng)
    # the number of each fine pixel among those hit; nothing hit is the row of zeros behind them
    number = np.full(face_map.shape, len(hit))
    number.ravel()[hit] = np.arange(len(hit))
    shaded = np.concatenate([np.clip(shaded, 0, 1), np.zeros((1, 3))])
    grid = [number[i::SUPERSAMPLING, j::SUPERSAMPLING] for i, j in np.ndindex(SUPERSAMPLING, SUPERSAMPLING)]
    colours = [shaded.take(cell.ravel(), 0) for cell in grid]
    premultiplied = (sum(colours[1:], start=colours[0]) / len(grid)).reshape(height, width, 3)
    alpha = np.mean([cell < len(hit) for cell in grid], axis=0)
    return Cutout(premultiplied, alpha, (int(low[1]), int(low[0])))


def ground_shadow(cad: Cad, view: View, strength: float) -> Array:
    """Factor [H, W] in 0..1 that darkens the ground under the model; all 1 where that is not seen."""
    height, width = view.size
    if np.sin(view.viewpoint[1]) < 0.05:
        return np.ones(view.size)
    x = (np.arange(width) + 0.5 - view.principal_point[0]) / camera.PASCAL3D_FOCAL_PX
    y = (view.principal_point[1] - np.arange(height) - 0.5) / camera.PASCAL3D_FOCAL_PX
    rays_cam = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), -1)
    R = camera.rotation(torch.as_tensor(view.viewpoint)).numpy()
    rays = rays_cam @ R
    centre = camera.camera_centre(torch.as_tensor(view.viewpoint)).numpy()
    low, high = cad.outline.min(0), cad.outline.max(0)
    hit = centre + rays * ((low[2] - centre[2]) / rays[..., 2])[..., None]
    # distance to the footprint, rounded: the blob is a soft rectangle
    beyond = np.maximum(np.abs(hit[..., :2]) - 0.85 * high[:2], 0)
    return 1 - strength * np.clip(1 - np.linalg.norm(beyond, axis=-1) / CONTACT_SHADOW, 0, 1) ** 2


def _rasterize(
    cad: Cad, points_cam: torch.Tensor, principal_point: Array, size: tuple[int, int], scale: int
) -> Fragments:
    return rasterize(
        points_cam.float()[None],
        torch.as_tensor(cad.faces),
        torch.tensor([camera.PASCAL3D_FOCAL_PX * scale], dtype=torch.float32),
        torch.as_tensor(principal_point * scale, dtype=torch.float32)[None],
        (size[0] * scale, size[1] * scale),
    )


def _owner(cad: Cad, face: NDArray[np.int64], points: Array, normals: Array) -> NDArray[np.int64]:
    """The material [N] at points [N, 3] of the faces [N]: the face's own, or a band over its paint."""
    owner = cad.face_material[face]
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
    colour = np.array(typical).take(owner, 0)
    for index, name in enumerate(cad.materials):
        if name in ("paint", "paint2"):
            where = np.flatnonzero(owner == index)
            if name == "paint2" and second is not None:
                painted = second(points.take(where, 0), parts[name])
            else:  # one generator seed for both: without a second paint the whole body is of one piece
                painted = paint(points.take(where, 0), np.random.default_rng(paint_seed))
            colour[where] = painted
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
    eye = _unit(camera.camera_centre(torch.as_tensor(view.viewpoint)).numpy() - points)
    normals = _unit(normals)
    normals *= np.where(_dot(normals, eye) < 0, -1.0, 1.0)[:, None]  # two-sided
    turn, height = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(20, 80))
    lamp = np.array([np.cos(height) * np.cos(turn), np.cos(height) * np.sin(turn), np.sin(height)])
    tint = 1 + rng.normal(0, 0.04, 3)
    ambient = rng.uniform(0.4, 0.6) * (0.8 + 0.2 * normals[:, 2])
    diffuse = rng.uniform(0.5, 0.85) * np.maximum(normals @ lamp, 0)
    diffuse += rng.uniform(0.05, 0.2) * np.maximum(normals @ (lamp * [-1, -1, 0.3]), 0)
    light = ambient + diffuse
    glowing = np.array([m.endswith("light") for m in materials])[owner]
    light = np.where(glowing, LAMP_GLOW + light, light)
    strength, shininess = np.array([GLOSS[m] for m in materials]).T
    facing = np.maximum(_dot(normals, _unit(lamp + eye)), 0)
    shine = strength[owner] * facing ** shininess[owner]
    return colour * light[:, None] * tint + (rng.uniform(0.3, 1.0) * shine)[:, None]


# Vectors are added up column by column: numpy's reductions over an axis of three are five times as slow.


def _interpolated(corners: Sequence[Array], weights: Array) -> Array:
    """Values [N, 3] inside N triangles from those at their three corners, each [N, 3], by weights [N, 3]."""
    terms = [corner * weights[:, k, None] for k, corner in enumerate(corners)]
    return terms[0] + terms[1] + terms[2]


def _dot(a: Array, b: Array) -> Array:
    """Scalar products [N] of vectors [N, 3]."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _unit(vectors: Array) -> Array:
    """Vectors [N, 3] at length 1."""
    return vectors / np.sqrt(_dot(vectors, vectors))[:, None]
