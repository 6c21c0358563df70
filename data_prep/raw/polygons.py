"""Polygons of a mesh file, cut into triangles: a fan from the first corner is right for convex ones only."""

import numpy as np

# Corners turn back by less than this share of the polygon's area where rounding alone does it.
_FLAT = 1e-6


def _normals(points: np.ndarray) -> np.ndarray:
    """Newell's normals [F, 3] of polygons [F, n, 3], twice the area long: the planes that fit them best."""
    return np.cross(points, np.roll(points, -1, 1)).sum(1)


def are_convex(points: np.ndarray) -> np.ndarray:
    """Whether polygons turn one way at all corners, seen along their normals.

    Args:
        points: [F, n, 3] corners in order.

    Returns:
        bool [F].
    """
    points = points.astype(np.float64)
    normal = _normals(points)
    along, following = np.roll(points, -1, 1) - points, np.roll(points, -2, 1) - np.roll(points, -1, 1)
    turn = (np.cross(along, following) * normal[:, None]).sum(-1)
    return (turn >= -_FLAT * (normal**2).sum(-1)[:, None]).all(1)


def ears(points: np.ndarray) -> np.ndarray:
    """Triangles of one polygon by ear clipping.

    A corner is an ear where the polygon turns as a whole does and the triangle with its neighbours holds no
    other corner; ears are cut off until a triangle is left.

    Args:
        points: [n, 3] corners in order, about in a plane.

    Returns:
        i64 [n - 2, 3] corners, in the polygon's sense.

    Raises:
        ValueError: no ear is left, or what is left is turned over: the polygon crosses itself.
    """
    normal = _normals(points[None].astype(np.float64))[0]
    axis = int(np.abs(normal).argmax())
    plane = np.delete(points.astype(np.float64), axis, 1)
    if (normal[axis] > 0) == (axis == 1):  # leaving y out turns the sense of x and z round
        plane = plane[:, ::-1]
    left, triangles = list(range(len(points))), []
    while len(left) > 3:
        for place in range(len(left)):
            corners = (left[place - 1], left[place], left[(place + 1) % len(left)])
            a, b, c = plane[list(corners)]
            if _turn(a, b, c) <= 0:
                continue
            others = plane[[i for i in left if i not in corners]]
            inside = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
            # A corner that stands in the list twice does not lie in its own way.
            same = np.any([(others == corner).all(-1) for corner in (a, b, c)], 0)
            if not (inside & ~same).any():
                triangles.append(corners)
                del left[place]
                break
        else:
            break
    if len(left) > 3 or _turn(*plane[left]) < 0:
        raise ValueError(f"a face of {len(points)} corners crosses itself: cut it into triangles")
    return np.array([*triangles, tuple(left)], np.int64)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of the triangles a, b, c [..., 2]."""
    return (b[0] - a[0]) * (c[..., 1] - a[1]) - (b[1] - a[1]) * (c[..., 0] - a[0])
