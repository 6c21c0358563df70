"""Built-in chairs and sofas, in metres."""

from functools import partial
from itertools import pairwise

import numpy as np

from ntdm.data_prep.synthetic.solids import Assembly, Recipe, box, hull, loft, tube


def _chair_anchors(a: Assembly, half: float, front: float, back: float, seat: float, top: float) -> None:
    a.anchor("back_upper_{}", (half, back, top))
    a.anchor("seat_upper_{}", (half, back, seat))
    a.anchor("seat_lower_{}", (half, front, seat))
    a.anchor("leg_upper_{}", (half, back, 0))
    a.anchor("leg_lower_{}", (half, front, 0))


def _legs(
    a: Assembly, half: float, front: float, back: float, height: float, thick: float, splay: float = 0.0
) -> None:
    for y, out in ((front, -splay), (back, splay)):
        a.add_pair("frame", tube([(half + splay, y + out, 0), (half, y, height)], thick, 10))


def _dining_chair(a: Assembly) -> None:
    _legs(a, 0.19, -0.2, 0.2, 0.43, 0.02)
    a.add("paint", box((-0.22, -0.23, 0.42), (0.22, 0.23, 0.47)))
    a.add_pair("frame", tube([(0.19, 0.2, 0.45), (0.19, 0.28, 0.98)], 0.02, 10))
    for z in (0.62, 0.75, 0.88):
        y = 0.2 + 0.08 * (z - 0.45) / 0.53
        a.add("paint2", box((-0.2, y - 0.012, z), (0.2, y + 0.012, z + 0.08)))
    _chair_anchors(a, 0.19, -0.2, 0.25, 0.45, 0.98)


def _armchair(a: Assembly) -> None:
    _legs(a, 0.27, -0.26, 0.26, 0.15, 0.03)
    a.add("paint", box((-0.3, -0.32, 0.13), (0.3, 0.3, 0.3)))
    a.add("paint2", hull([(-0.33, 0.23, 0.31, 0.4), (-0.3, 0.24, 0.29, 0.43), (0.2, 0.24, 0.29, 0.43)], 5.0))
    a.add_pair("paint", box((0.25, -0.34, 0.13), (0.38, 0.3, 0.58)))
    a.add("paint", box((-0.38, 0.2, 0.13), (0.38, 0.4, 0.92)))
    _chair_anchors(a, 0.3, -0.32, 0.35, 0.42, 0.92)


def _office_chair(a: Assembly) -> None:
    for angle in np.arange(5) * 2 * np.pi / 5 - np.pi / 2:  # one foot straight ahead keeps the symmetry
        x, y = 0.3 * np.cos(angle), 0.3 * np.sin(angle)
        a.add(
            "dark",
            tube([(0, 0, 0.11), (x, y, 0.06)], [0.035, 0.022], 8),
            tube([(x - 0.025, y, 0.035), (x + 0.025, y, 0.035)], 0.035, 10),
        )
    a.add("metal", tube([(0, 0, 0.1), (0, 0, 0.45)], 0.03, 10))
    a.add(
        "paint", hull([(-0.26, 0.18, 0.45, 0.49), (-0.22, 0.24, 0.43, 0.52), (0.24, 0.24, 0.43, 0.52)], 5.0)
    )
    a.add("dark", box((-0.04, 0.22, 0.44), (0.04, 0.29, 0.7)))
    a.add("paint2", box((-0.23, 0.24, 0.6), (0.23, 0.31, 1.08), 0.86))
    a.add_pair(
        "dark",
        tube([(0.25, 0.1, 0.46), (0.3, 0.1, 0.48), (0.3, 0.1, 0.68)], 0.02, 8),
        box((0.265, -0.12, 0.67), (0.335, 0.18, 0.71)),
    )
    _chair_anchors(a, 0.22, -0.24, 0.28, 0.5, 1.08)


def _tub_chair(a: Assembly) -> None:
    a.add("metal", tube([(0, 0, 0), (0, 0, 0.03)], 0.24, 20), tube([(0, 0, 0.02), (0, 0, 0.4)], 0.035, 10))
    a.add("paint", tube([(0, 0, 0.36), (0, 0, 0.48)], [0.24, 0.3], 20))
    outer, inner = 0.36, 0.3
    rings = []
    for angle in np.linspace(-0.3, 1.3, 25) * np.pi:
        c, s, rise = np.cos(angle), np.sin(angle), 0.62 + 0.28 * max(np.sin(angle), 0.0) ** 2
        rings.append(
            [
                (inner * c, inner * s, 0.4),
                (outer * c, outer * s, 0.36),
                (outer * c, outer * s, rise),
                (inner * c, inner * s, rise),
            ]
        )
    a.add("paint2", loft(rings))
    _chair_anchors(a, 0.3, -0.3, 0.33, 0.48, 0.9)


def _lounge_chair(a: Assembly) -> None:
    slope = [(-0.4, 0.42), (0.2, 0.3), (0.55, 0.92)]
    for (y0, z0), (y1, z1), material in ((slope[0], slope[1], "paint"), (slope[1], slope[2], "paint2")):
        normal = np.array([-(z1 - z0), y1 - y0]) / np.hypot(y1 - y0, z1 - z0) * 0.08
        rings = [
            [
                (x, y0, z0),
                (x, y1, z1),
                (x, y1 + normal[0], z1 + normal[1]),
                (x, y0 + normal[0], z0 + normal[1]),
            ]
            for x in (-0.28, 0.28)
        ]
        a.add(material, loft(rings))
    # sled legs of one bent bar on either side
    bar = [(0.3, -0.38, 0.42), (0.31, -0.33, 0.02), (0.31, 0.4, 0.02), (0.3, 0.12, 0.34)]
    a.add_pair("metal", tube(bar, 0.02, 8))
    a.add_pair(
        "frame",
        box((0.29, -0.3, 0.55), (0.36, 0.3, 0.59)),
        tube([(0.32, -0.27, 0.1), (0.32, -0.27, 0.56)], 0.018, 8),
    )
    _chair_anchors(a, 0.28, -0.4, 0.5, 0.4, 0.95)


def _bar_stool(a: Assembly) -> None:
    _legs(a, 0.13, -0.13, 0.13, 0.76, 0.018, 0.07)
    for z in (0.22, 0.3):
        reach = 0.13 + 0.07 * (1 - z / 0.76)
        a.add("metal", tube([(-reach, -reach, z), (reach, -reach, z)], 0.012, 8))
        a.add_pair("metal", tube([(reach, -reach, z), (reach, reach, z)], 0.012, 8))
    a.add("paint", hull([(-0.2, 0.15, 0.76, 0.8), (-0.16, 0.19, 0.75, 0.82), (0.17, 0.19, 0.75, 0.82)], 4.0))
    a.add_pair("frame", tube([(0.15, 0.16, 0.8), (0.15, 0.2, 1.05)], 0.015, 8))
    a.add("paint2", box((-0.18, 0.17, 0.98), (0.18, 0.21, 1.12)))
    _chair_anchors(a, 0.18, -0.18, 0.2, 0.8, 1.12)


def _sofa(
    a: Assembly,
    width: float,
    cushions: int,
    seat: float,
    top: float,
    depth: float = 0.9,
    arm: float = 0.2,
    arm_top: float = 0.62,
    round_arms: bool = False,
    legs: float = 0.1,
    wing: float = 0.0,
) -> None:
    """A sofa with `cushions` seats; `arm` 0 leaves out arm rests, `wing` is the height of side wings."""
    half, front, back = width / 2, -depth / 2, depth / 2
    inner = half - arm
    _legs(a, half - 0.1, front + 0.1, back - 0.1, legs, 0.03)
    a.add("paint", box((-half, front + 0.03, legs), (half, back, seat - 0.12)))
    a.add("paint", box((-inner, back - 0.28, legs), (inner, back, top)))
    edges = np.linspace(-inner, inner, cushions + 1)
    for x0, x1 in pairwise(edges):
        cushion = hull(
            [(front - 0.02, 0.94, -0.8, 0.8), (front + 0.06, 1, -1, 1), (back - 0.25, 1, -1, 1)], 6.0
        )
        middle, reach = (x0 + x1) / 2, (x1 - x0) / 2 - 0.012
        vertices = cushion[0] * [reach, 1, 0.08] + [middle, 0, seat - 0.06]
        a.add("paint2", (vertices, cushion[1]))
        a.add("paint2", box((x0 + 0.02, back - 0.38, seat), (x1 - 0.02, back - 0.22, top - 0.06), 0.94))
    if arm and round_arms:
        y = np.linspace(front - 0.02, back, 2)
        a.add_pair(
            "paint",
            tube([(half - arm / 2, v, arm_top - arm / 2) for v in y], 0.62 * arm, 16),
            box((inner, front, legs), (half, back, arm_top - arm / 2)),
        )
    elif arm:
        a.add_pair("paint", box((inner, front - 0.02, legs), (half, back, arm_top)))
    if wing:
        a.add_pair("paint", box((inner, back - 0.42, legs), (half, back, wing)))
    a.anchor("front_bottom_{}", (half, front, 0))
    a.anchor("seat_bottom_{}", (inner, front, seat))
    a.anchor("seat_top_{}", (inner, back - 0.25, seat))
    a.anchor("top_{}_corner", (half, back, top))
    a.anchor("{}_bottom_back", (half, back, 0))


SOFAS: tuple[Recipe, ...] = (
    partial(_sofa, width=2.1, cushions=3, seat=0.45, top=0.85),
    partial(_sofa, width=1.5, cushions=2, seat=0.44, top=0.9, round_arms=True, arm_top=0.66),
    partial(_sofa, width=1.9, cushions=2, seat=0.4, top=0.75, depth=1.05, arm=0.0, legs=0.14),
    partial(_sofa, width=1.75, cushions=2, seat=0.46, top=1.1, arm=0.14, arm_top=0.6, wing=1.02, depth=0.85),
    partial(_sofa, width=2.3, cushions=4, seat=0.36, top=0.66, arm=0.34, arm_top=0.5, depth=1.0, legs=0.06),
    partial(
        _sofa, width=1.85, cushions=1, seat=0.46, top=0.78, arm=0.16, arm_top=0.78, round_arms=True, legs=0.16
    ),
)


CHAIRS: tuple[Recipe, ...] = (
    _dining_chair,
    _armchair,
    _office_chair,
    _tub_chair,
    _lounge_chair,
    _bar_stool,
)
