"""Built-in cars and buses, in metres."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from ntdm.data_prep.synthetic.solids import Assembly, Recipe, band, box, hull, tube


def _wheel(a: Assembly, x: float, y: float, radius: float, width: float) -> None:
    """A pair of wheels; x is the outer face."""
    a.add_pair("tyre", tube([(x - width, y, radius), (x, y, radius)], radius, 18))
    a.add_pair("metal", tube([(x - width / 2, y, radius), (x + 0.015, y, radius)], 0.55 * radius, 12))


def _car(
    a: Assembly,
    length: float,
    width: float,
    height: float,
    nose: float,
    belt: float,
    deck: float,
    cabin: tuple[float, float, float, float],
    radius: float,
    pillars: Sequence[float],
    axles: tuple[float, float],
    taper: float = 0.26,
    clearance: float = 0.22,
) -> None:
    """A car body, cabin, wheels and lights.

    `nose`, `belt` and `deck` are the body's heights at the front, at the windows and at the tail;
    `cabin` holds y at the windscreen's foot, at its top, at the roof's end and at the rear window's foot.
    """
    end, half = length / 2, width / 2
    foot, top, roof_end, back = cabin
    body = [
        (-end, 0.86 * half, clearance + 0.12, nose - 0.1),
        (-end + 0.14, half, clearance, nose),
        (foot, half, clearance, belt),
        (back, half, clearance, max(belt, deck)),
        (end - 0.1, half, clearance, deck),
        (end, 0.93 * half, clearance + 0.12, deck - 0.06),
    ]
    a.add("paint", hull(sorted(body), 5.0))
    w = 0.92 * half
    house = [
        (foot, w, belt - 0.12, belt),
        (top, w, belt - 0.12, height),
        (roof_end, w, belt - 0.12, height - 0.02),
        (back, w, belt - 0.12, belt + 0.02),
    ]
    a.add("glass", hull(house, 7.0, taper))
    roof = 0.94 * w * (1 - taper)
    a.add(
        "paint",
        hull(
            [
                (top - 0.12, roof, height - 0.09, height - 0.05),
                (top + 0.1, roof, height - 0.09, height + 0.02),
                (roof_end - 0.1, roof, height - 0.11, height),
                (roof_end + 0.1, roof, height - 0.13, height - 0.06),
            ],
            4.0,
        ),
    )
    for y in pillars:
        a.add("paint", hull(band(house, y - 0.06, y + 0.06, 0.012), 7.0, taper))
    a.add_pair(
        "paint",
        tube([(0.97 * w, foot, belt - 0.05), (0.97 * w * (1 - taper), top, height - 0.05)], 0.045, 8),
        tube([(0.97 * w * (1 - taper), roof_end, height - 0.06), (0.97 * w, back, belt - 0.02)], 0.06, 8),
    )
    a.add_pair(
        "paint", box((half - 0.02, foot + 0.1, belt - 0.02), (half + 0.12, foot + 0.25, belt + 0.11))
    )  # mirrors
    a.add_pair(
        "headlight", box((0.5 * half, -end - 0.02, nose - 0.32), (0.9 * half, -end + 0.2, nose - 0.13))
    )
    a.add(
        "dark",
        box((-0.44 * half, -end - 0.02, clearance + 0.16), (0.44 * half, -end + 0.1, nose - 0.16)),
        box((-0.9 * half, -end - 0.03, clearance + 0.02), (0.9 * half, -end + 0.1, clearance + 0.12)),
        box((-0.9 * half, end - 0.1, clearance + 0.02), (0.9 * half, end + 0.03, clearance + 0.14)),
    )
    a.add_pair(
        "taillight", box((0.55 * half, end - 0.2, deck - 0.34), (0.96 * half, end + 0.02, deck - 0.14))
    )
    a.add("metal", box((-0.28, end - 0.05, deck - 0.42), (0.28, end + 0.025, deck - 0.28)))
    for y in axles:
        a.add_pair("dark", tube([(half - 0.3, y, radius), (half + 0.004, y, radius)], 1.1 * radius, 18))
        _wheel(a, half + 0.03, y, radius, 0.22)
    a.anchor("{}_front_wheel", (half, axles[0], radius))
    a.anchor("{}_back_wheel", (half, axles[1], radius))
    a.anchor("upper_{}_windshield", (roof, top, height - 0.03))
    a.anchor("upper_{}_rearwindow", (roof, roof_end, height - 0.03))
    a.anchor("{}_front_light", (0.75 * half, -end, nose - 0.22))
    a.anchor("{}_back_trunk", (0.9 * half, end, deck - 0.1))


def _pickup(a: Assembly) -> None:
    _car(
        a,
        5.3,
        1.95,
        1.85,
        1.08,
        1.18,
        1.08,
        (-1.05, -0.45, 0.45, 0.7),
        0.42,
        (0.05,),
        (-1.65, 1.55),
        0.2,
        0.4,
    )
    a.add("dark", box((-0.8, 0.85, 1.0), (0.8, 2.5, 1.09)))
    a.add_pair("paint", box((0.8, 0.8, 0.9), (0.95, 2.62, 1.2)))
    a.add("paint", box((-0.95, 2.5, 0.9), (0.95, 2.64, 1.2)))


CARS: tuple[Recipe, ...] = (
    partial(
        _car,
        length=4.6,
        width=1.8,
        height=1.42,
        nose=0.82,
        belt=0.95,
        deck=0.98,
        cabin=(-0.95, -0.2, 0.95, 1.6),
        radius=0.32,
        pillars=(0.35,),
        axles=(-1.4, 1.35),
    ),
    partial(
        _car,
        length=3.9,
        width=1.75,
        height=1.5,
        nose=0.82,
        belt=0.96,
        deck=1.0,
        cabin=(-1.0, -0.25, 1.45, 1.9),
        radius=0.31,
        pillars=(0.4, 1.25),
        axles=(-1.25, 1.3),
    ),
    partial(
        _car,
        length=4.9,
        width=1.95,
        height=2.05,
        nose=1.05,
        belt=1.2,
        deck=1.25,
        cabin=(-2.0, -1.2, 2.3, 2.42),
        radius=0.34,
        pillars=(-0.3, 0.9, 1.1, 2.15),
        axles=(-1.55, 1.6),
        taper=0.12,
    ),
    _pickup,
    partial(
        _car,
        length=4.4,
        width=1.85,
        height=1.22,
        nose=0.68,
        belt=0.82,
        deck=0.86,
        cabin=(-0.65, 0.1, 0.65, 1.75),
        radius=0.31,
        pillars=(0.75,),
        axles=(-1.35, 1.3),
        taper=0.34,
        clearance=0.14,
    ),
    partial(
        _car,
        length=4.5,
        width=1.9,
        height=1.85,
        nose=1.08,
        belt=1.2,
        deck=1.22,
        cabin=(-1.0, -0.5, 1.95, 2.15),
        radius=0.4,
        pillars=(0.25, 1.2),
        axles=(-1.4, 1.35),
        taper=0.17,
        clearance=0.34,
    ),
)


def _bus(
    a: Assembly,
    length: float,
    height: float,
    decks: Sequence[tuple[float, float]],
    bonnet: float = 0.0,
    width: float = 2.5,
    rows: int = 6,
    roof: float = 0.0,
    axles: tuple[float, float] = (-0.28, 0.3),
) -> None:
    """A bus: `decks` are the (lowest, highest) z of each row of windows, `bonnet` the length of a nose."""
    end, half = length / 2, width / 2
    front = -end + bonnet
    a.add(
        "paint",
        hull(
            [
                (front, 0.96 * half, 0.35, height - 0.06),
                (front + 0.15, half, 0.32, height),
                (end - 0.1, half, 0.32, height),
                (end, 0.97 * half, 0.35, height - 0.08),
            ],
            9.0,
        ),
    )
    a.add("paint2", box((-half - 0.012, front + 0.12, 0.62), (half + 0.012, end - 0.05, 0.84)))
    for low, high in decks:
        edges = np.linspace(front + 0.45, end - 0.3, rows + 1)
        for y0, y1 in pairwise(edges):
            a.add("glass", box((-half - 0.02, y0 + 0.07, low), (half + 0.02, y1 - 0.07, high)))
        a.add(
            "glass",
            box((-0.86 * half, front - 0.03, low - 0.15), (0.86 * half, front + 0.1, high)),
            box((-0.6 * half, end - 0.1, low + 0.1), (0.6 * half, end + 0.025, high - 0.05)),
        )
    lamp = 0.75 if not bonnet else 1.0
    if bonnet:
        a.add("paint", hull([(-end, 0.72 * half, 0.45, 1.25), (front + 0.1, 0.86 * half, 0.4, 1.5)], 5.0))
        a.add("dark", box((-0.4 * half, -end - 0.03, 0.6), (0.4 * half, -end + 0.1, 1.15)))
    else:
        a.add("dark", box((-0.5 * half, front - 0.03, 0.5), (0.5 * half, front + 0.1, 0.8)))
    inner = 0.5 if bonnet else 0.62
    a.add_pair(
        "headlight",
        box((inner * half, -end - 0.04, lamp - 0.14), (inner * half + 0.3, -end + 0.2, lamp + 0.14)),
    )
    a.add_pair("taillight", box((0.74 * half, end - 0.1, 0.8), (0.93 * half, end + 0.03, 1.35)))
    a.add("dark", box((-0.95 * half, end - 0.1, 0.3), (0.95 * half, end + 0.03, 0.55)))
    if roof:
        a.add(
            "metal",
            box((-0.6 * half, -0.2 * length, height - 0.05), (0.6 * half, 0.2 * length, height + roof), 0.9),
        )
    for share in axles:
        _wheel(a, half + 0.03, share * length, 0.48, 0.3)
    a.anchor("{}_front_wheel", (half, axles[0] * length, 0.48))
    a.anchor("{}_back_wheel", (half, axles[1] * length, 0.48))
    for where, y in (("front", front), ("back", end)):
        a.anchor(f"body_{where}_{{}}_upper", (half, y, height))
        a.anchor(f"body_{where}_{{}}_lower", (half, y, 0.35))


BUSES: tuple[Recipe, ...] = (
    partial(_bus, length=10.5, height=3.0, decks=((1.45, 2.45),)),
    partial(_bus, length=9.5, height=4.3, decks=((1.25, 2.05), (2.75, 3.6)), rows=5),
    partial(_bus, length=9.5, height=2.95, decks=((1.7, 2.4),), bonnet=1.7, rows=8, axles=(-0.36, 0.25)),
    partial(_bus, length=6.2, height=2.75, decks=((1.4, 2.2),), width=2.1, rows=3, axles=(-0.3, 0.28)),
    partial(_bus, length=12.0, height=3.7, decks=((2.15, 3.2),), rows=5, axles=(-0.3, 0.24)),
    partial(_bus, length=8.5, height=2.9, decks=((1.2, 2.35),), rows=4, roof=0.4, axles=(-0.24, 0.27)),
)
