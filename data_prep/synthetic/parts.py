"""Real CAD models made ready for photos: smooth normals and parts, of which their files hold neither.

Released CADs are bags of triangles: turned either way, vertices repeated, inner walls left in. Here faces
that meet at a soft edge become a smooth patch; patches that are alike in place, direction and size become a
part; and a part gets its material from what its geometry tells: what is round, thin and stands on the ground
is a wheel, the largest flat front of a monitor is its screen, the widest part of the rest is the body.
Both halves of a model look alike, since places are told by |x|.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ntdm.data_prep.synthetic.solids import CREASE_COSINE, OFF_DECIMALS, Band, Cad
from ntdm.data_prep.synthetic.texture import Array

Labels = NDArray[np.int64]

PARTS = 4  # beside wheels and screen
ROUNDS = 12  # of k-means; by then patches have stopped to move
DIRECTION_WEIGHT = 0.35  # CAD units by which a wall and a floor at one place are apart
TYRE = 0.62  # of a wheel's radius: what lies further out is rubber

# Parts by falling area. Furniture stands on frames, the rest on fittings of metal.
_BODY = ("paint", "paint2", "metal", "dark")
_MATERIALS = {name: ("paint", "paint2", "frame", "dark") for name in ("chair", "sofa", "diningtable")}

# What released models lack as parts, and a photo would show: (material, low, high, steepest), heights as
# shares of the model's own; see synthetic_cad.Band.
_BANDS: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "car": (("glass", 0.64, 0.94, 0.9),),
    "bus": (("glass", 0.5, 0.8, 0.5),),
    "train": (("glass", 0.58, 0.78, 0.5),),
    "boat": (("dark", 0.0, 0.06, 1.0),),
    "bottle": (("paint2", 0.2, 0.5, 0.7), ("metal", 0.93, 1.0, 1.0)),
}


def with_parts(vertices: Array, faces: Labels, category: str) -> Cad:
    """A model as photos need it.

    Args:
        vertices: [V, 3], object frame, CAD units; kept as they are but for the fifth decimal.
        faces: [F, 3], 0-based, of either winding; kept as they are.
        category: decides what the parts are made of.
    """
    places = np.asarray(vertices, np.float64).round(OFF_DECIMALS)
    faces = np.asarray(faces, np.int64)
    corners = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)[faces]
    edges = places[faces]
    normals = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    length = np.linalg.norm(normals, axis=1)
    # a face without area is never seen; any unit vector will do
    units = np.where(length[:, None] > 0, normals / np.maximum(length, 1e-30)[:, None], [0.0, 0.0, 1.0])
    patch, sign = _patches(corners, units)
    shell = connected_components(
        _graph(corners[:, [0, 1]].ravel(), corners[:, [1, 2]].ravel(), corners.max() + 1), directed=False
    )[1][corners[:, 0]]

    names = _MATERIALS.get(category, _BODY)
    order = sorted({*names, "tyre", "metal", "glass", *(band[0] for band in _BANDS.get(category, ()))})
    centres = edges.mean(1)
    material = np.array([order.index(name) for name in names])[_parts(patch, centres, units, length)]
    for wheel, axle, radius in _wheels(shell, places, faces):
        outer = np.linalg.norm(centres[wheel, 1:] - axle, axis=1) > TYRE * radius
        material[wheel] = np.where(outer, order.index("tyre"), order.index("metal"))
    if category == "tvmonitor":
        material[_screen(patch, centres, units, length)] = order.index("glass")
    used = places[np.unique(faces)]
    floor, height = used[:, 2].min(), np.ptp(used[:, 2])
    return Cad(
        vertices=places,
        faces=faces,
        face_material=material,
        materials=tuple(order),
        anchors={},
        corner_normals=_corner_normals(corners, patch, units * (sign * length)[:, None], units),
        bands=tuple(
            Band(name, floor + low * height, floor + high * height, steepest)
            for name, low, high, steepest in _BANDS.get(category, ())
        ),
    )


def _graph(i: Labels, j: Labels, nodes: int) -> coo_matrix:
    return coo_matrix((np.ones(len(i), bool), (i, j)), (nodes, nodes))


def _patches(corners: Labels, units: Array) -> tuple[Labels, Array]:
    """The smooth patch of each face [F], and the sign [F] that turns its normal to agree with its patch's.

    corners [F, 3] name places, so that faces join wherever they touch; units [F, 3] are normals.
    """
    count = len(corners)
    ends = np.sort(corners[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    face = np.repeat(np.arange(count), 3)
    order = np.lexsort(ends.T)
    ends, face = ends[order], face[order]
    shared = (ends[1:] == ends[:-1]).all(1)
    i, j = face[:-1][shared], face[1:][shared]
    cosine = np.einsum("ij,ij->i", units[i], units[j])
    soft = np.abs(cosine) > CREASE_COSINE
    i, j, turned = i[soft], j[soft], cosine[soft] < 0
    patch = connected_components(_graph(i, j, count), directed=False)[1].astype(np.int64)
    # Every face twice, as it is and turned over, joined to its neighbours as they agree: what hangs together
    # with the first face of its patch as it is, is the right way round.
    sides = connected_components(
        _graph(np.r_[i, i + count], np.r_[j + turned * count, j + ~turned * count], 2 * count), directed=False
    )[1]
    first = np.unique(patch, return_index=True)[1]
    return patch, np.where(sides[:count] == sides[first[patch]], 1.0, -1.0)


def _corner_normals(corners: Labels, patch: Labels, weighted: Array, units: Array) -> NDArray[np.float32]:
    """Normals [F, 3, 3] at each face's corners, over the faces of its patch that meet there."""
    key = corners + patch[:, None] * (corners.max() + 1)
    place = np.unique(key, return_inverse=True)[1].reshape(-1)
    addends = np.repeat(weighted, 3, axis=0)
    total = np.stack([np.bincount(place, column) for column in addends.T], 1)[place].reshape(-1, 3, 3)
    length = np.linalg.norm(total, axis=2, keepdims=True)
    normals = np.where(length > 1e-12, total / np.maximum(length, 1e-12), units[:, None])
    return normals.astype(np.float32)


def _parts(patch: Labels, centres: Array, units: Array, area: Array) -> Labels:
    """The part of each face [F], 0 the widest: patches alike in place and direction, by weighted k-means."""
    weight = np.bincount(patch, area) + 1e-12

    def mean(values: Array) -> Array:
        return np.stack([np.bincount(patch, column * area) for column in values.T], 1) / weight[:, None]

    traits = np.concatenate([mean(np.abs(centres) * [1, 0, 0] + centres * [0, 1, 1]),
                             DIRECTION_WEIGHT * mean(np.abs(units))], 1)  # fmt: skip
    means = traits[[weight.argmax()]]
    for _ in range(min(PARTS, len(traits)) - 1):  # the next: far from all others, and not a splinter
        away = ((traits[:, None] - means) ** 2).sum(2).min(1)
        means = np.concatenate([means, traits[[(away * np.sqrt(weight)).argmax()]]])
    for _ in range(ROUNDS):
        nearest = ((traits[:, None] - means) ** 2).sum(2).argmin(1)
        for part in np.unique(nearest):
            mine = nearest == part
            means[part] = np.average(traits[mine], axis=0, weights=weight[mine])
    rank = np.empty(PARTS, np.int64)
    rank[np.argsort(-np.bincount(nearest, weight, minlength=PARTS), kind="stable")] = np.arange(PARTS)
    return rank[nearest][patch]


def _wheels(shell: Labels, vertices: Array, faces: Labels) -> list[tuple[Labels, Array, float]]:
    """(faces, axle [2] in y and z, radius) of each shell that is round from the side and on the ground."""
    order = np.argsort(shell, kind="stable")
    starts = np.flatnonzero(np.diff(shell[order], prepend=-1))
    low = np.minimum.reduceat(vertices[faces[order]].min(1), starts)
    high = np.maximum.reduceat(vertices[faces[order]].max(1), starts)
    width, length, height = (high - low).T
    floor, ceiling = low[:, 2].min(), high[:, 2].max()
    round_ = (np.abs(length - height) < 0.15 * height) & (width < 0.6 * height) & (height > 0.04)
    standing = (low[:, 2] < floor + 0.1 * (ceiling - floor)) & (height < 0.75 * (ceiling - floor))
    members = np.split(order, starts[1:])
    return [
        (members[k], (low[k, 1:] + high[k, 1:]) / 2, float(height[k] / 2))
        for k in np.flatnonzero(round_ & standing)
    ]


def _screen(patch: Labels, centres: Array, units: Array, area: Array) -> NDArray[np.bool_]:
    """The faces [F] of the largest patch in the front half that looks along y."""
    front = (np.abs(units[:, 1]) > 0.9) & (centres[:, 1] < np.median(centres[:, 1]))
    return patch == np.bincount(patch, area * front).argmax()
