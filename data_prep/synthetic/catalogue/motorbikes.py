"""Built-in motorbikes, in metres."""

from functools import partial

from ntdm.data_prep.synthetic.solids import Assembly, Recipe, blade, box, hull, tube


def _motorbike(
    a: Assembly,
    base: float = 1.4,
    radii: tuple[float, float] = (0.31, 0.31),
    tank: tuple[float, float] = (0.78, 0.98),
    seat: float = 0.78,
    bars: tuple[float, float] = (-0.42, 1.05),
    rake: float = 0.12,
    tyre: float = 0.065,
    seat_end: float = 0.62,
    screen: float = 0.0,
    cases: bool = False,
    scooter: bool = False,
    fender: float = 0.0,
) -> None:
    """A motorbike: wheel base, (front, back) wheel radii, (low, high) z of the tank, bars at (y, z)."""
    front, back = -base / 2, base / 2
    for y, radius in ((front, radii[0]), (back, radii[1])):
        a.add(
            "tyre",
            tube(
                [(-tyre, y, radius), (0, y, radius), (tyre, y, radius)],
                [0.9 * radius, radius, 0.9 * radius],
                22,
            ),
        )
        a.add("metal", tube([(-tyre - 0.01, y, radius), (tyre + 0.01, y, radius)], 0.62 * radius, 16))
        a.add("dark", tube([(-tyre - 0.02, y, radius), (tyre + 0.02, y, radius)], 0.22 * radius, 10))
    bar_y, bar_z = bars
    a.add_pair("metal", tube([(0.095, front, radii[0]), (0.09, front + rake + 0.12, bar_z - 0.06)], 0.028, 8))
    a.add_pair(
        "dark",
        tube(
            [(0.02, bar_y - 0.06, bar_z - 0.04), (0.24, bar_y, bar_z), (0.36, bar_y + 0.08, bar_z)], 0.02, 8
        ),
    )
    lamp_y, lamp_z = front + rake + 0.02, bar_z - 0.12
    a.add("headlight", tube([(0, lamp_y - 0.1, lamp_z), (0, lamp_y - 0.07, lamp_z)], 0.085, 14))
    a.add("paint", tube([(0, lamp_y - 0.075, lamp_z), (0, lamp_y + 0.08, lamp_z)], [0.1, 0.06], 14))
    a.add("taillight", box((-0.08, seat_end + 0.16, seat - 0.03), (0.08, seat_end + 0.2, seat + 0.05)))
    if scooter:
        a.add(
            "paint",
            box((-0.2, front + 0.17, 0.25), (0.2, front + 0.26, bar_z - 0.12), 0.8),
            box((-0.16, front + 0.2, 0.24), (0.16, back - 0.3, 0.31)),
            hull(
                [
                    (back - 0.45, 0.15, 0.25, seat - 0.1),
                    (back - 0.1, 0.19, 0.3, seat - 0.04),
                    (back + 0.3, 0.13, 0.45, seat - 0.06),
                ],
                3.0,
            ),
        )
        a.add(
            "dark",
            hull(
                [
                    (back - 0.42, 0.12, seat - 0.1, seat),
                    (back - 0.2, 0.15, seat - 0.1, seat + 0.04),
                    (seat_end + 0.15, 0.13, seat - 0.06, seat + 0.06),
                ],
                4.0,
            ),
        )
    else:
        low, high = tank
        a.add(
            "paint",
            hull(
                [
                    (bar_y + 0.08, 0.06, high - 0.12, high - 0.02),
                    (bar_y + 0.2, 0.14, low, high),
                    (bar_y + 0.42, 0.13, low, high - 0.04),
                    (bar_y + 0.58, 0.07, low, low + 0.08),
                ],
                2.6,
            ),
        )
        a.add(
            "dark",
            hull(
                [
                    (bar_y + 0.52, 0.1, seat - 0.07, seat),
                    (bar_y + 0.75, 0.14, seat - 0.08, seat + 0.01),
                    (seat_end, 0.12, seat - 0.03, seat + 0.07),
                    (seat_end + 0.16, 0.07, seat, seat + 0.07),
                ],
                4.0,
            ),
        )
        a.add("metal", hull([(-0.28, 0.15, 0.26, 0.62), (0.2, 0.16, 0.24, 0.66)], 5.0, 0.2))
        a.add_pair(
            "metal",
            tube([(0.14, -0.2, 0.3), (0.17, 0.2, 0.22), (0.18, back + 0.2, 0.33)], [0.03, 0.03, 0.05], 8),
        )
        a.add(
            "frame",
            tube(
                [(0, front + rake + 0.1, bar_z - 0.15), (0, -0.1, low), (0, back - 0.1, seat - 0.08)],
                0.035,
                8,
            ),
        )
        a.add_pair("frame", tube([(0.09, 0.15, 0.4), (0.09, back, radii[1])], 0.03, 8))
    if screen:
        a.add(
            "glass", box((-0.17, lamp_y - 0.06, lamp_z + 0.06), (0.17, lamp_y + 0.03, lamp_z + screen), 0.7)
        )
        a.add_pair(
            "paint",
            blade(
                [(0.12, lamp_y - 0.08, lamp_z + 0.08), (0.12, bar_y + 0.3, lamp_z - 0.1)],
                [(0.17, front + 0.2, 0.4), (0.17, 0.15, 0.35)],
                (0.03, 0.03),
                0,
            ),
        )
    if cases:
        a.add_pair("paint2", box((0.17, back - 0.25, 0.42), (0.38, back + 0.28, 0.78)))
        a.add("paint2", box((-0.2, back + 0.05, seat + 0.1), (0.2, back + 0.38, seat + 0.36), 0.9))
    a.add(
        "paint2",
        hull(
            [
                (front - 0.25, 0.05, 1.7 * radii[0] + fender, 1.8 * radii[0] + fender),
                (front, 0.09, 1.85 * radii[0] + fender, 2.12 * radii[0] + fender),
                (front + 0.24, 0.05, 1.65 * radii[0] + fender, 1.8 * radii[0] + fender),
            ],
            3.0,
        ),
        hull(
            [
                (back - 0.1, 0.08, 1.95 * radii[1] + fender, 2.15 * radii[1] + fender),
                (back + 0.28, 0.08, 1.7 * radii[1] + fender, 1.85 * radii[1] + fender),
            ],
            3.0,
        ),
    )
    a.anchor("front_seat", (0, bar_y + 0.55, seat))
    a.anchor("back_seat", (0, seat_end, seat))
    a.anchor("head_center", (0, bar_y, bar_z))
    a.anchor("headlight_center", (0, lamp_y - 0.08, lamp_z))
    a.anchor("{}_front_wheel", (tyre, front, radii[0]))
    a.anchor("{}_back_wheel", (tyre, back, radii[1]))
    a.anchor("{}_handle_center", (0.32, bar_y + 0.05, bar_z))


MOTORBIKES: tuple[Recipe, ...] = (
    partial(_motorbike),
    partial(_motorbike, base=1.65, seat=0.66, tank=(0.7, 0.9), bars=(-0.35, 1.15), rake=0.32, tyre=0.085),
    partial(
        _motorbike, base=1.3, radii=(0.23, 0.23), scooter=True, seat=0.78, bars=(-0.4, 1.02), seat_end=0.7
    ),
    partial(
        _motorbike,
        base=1.45,
        radii=(0.37, 0.33),
        seat=0.92,
        tank=(0.85, 1.02),
        bars=(-0.4, 1.2),
        rake=0.2,
        tyre=0.05,
        fender=0.12,
    ),
    partial(_motorbike, base=1.55, screen=0.42, cases=True, bars=(-0.42, 1.1), tyre=0.075),
    partial(
        _motorbike, base=1.35, screen=0.22, bars=(-0.4, 0.95), seat=0.82, rake=0.1, tyre=0.08, seat_end=0.58
    ),
)
