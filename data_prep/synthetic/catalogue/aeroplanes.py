"""Built-in aeroplanes, in units of the fuselage length."""

from collections.abc import Sequence

from ntdm.data_prep.synthetic.solids import Assembly, Recipe, Station, band, blade, box, hull, tube

Panel = tuple[float, float, float, float, float, float, float]  # see _wing


def _wing(a: Assembly, panel: Panel, material: str = "paint2") -> None:
    """A pair of wings: (root leading y, root chord, root z, tip x, tip leading y, tip chord, tip z)."""
    y0, chord0, z0, x1, y1, chord1, z1 = panel
    root, tip = [(0, y0, z0), (0, y0 + chord0, z0)], [(x1, y1, z1), (x1, y1 + chord1, z1)]
    a.add_pair(material, blade(root, tip, (0.035, 0.012), 2))


def _engine(a: Assembly, x: float, y: float, z: float, radius: float, length: float) -> None:
    a.add_pair(
        "metal",
        tube([(x, y, z), (x, y + 0.6 * length, z), (x, y + length, z)], [radius, radius, 0.6 * radius], 12),
    )
    a.add_pair("dark", tube([(x, y - 0.006, z), (x, y + 0.01, z)], 0.8 * radius, 12))


def _propeller(a: Assembly, y: float, z: float, radius: float) -> None:
    a.add("dark", box((-radius, y - 0.006, z - 0.014), (radius, y + 0.006, z + 0.014)))
    a.add("metal", tube([(0, y - 0.04, z), (0, y + 0.02, z)], [0.006, 0.028], 10))


def _aeroplane(
    a: Assembly,
    fuselage: Sequence[Station],
    wings: Sequence[Panel],
    tail: Panel,
    fin: tuple[float, float, float, float, float, float],
    cockpit: tuple[float, float],
    exponent: float = 2.0,
    stripe: tuple[float, float] | None = None,
    fin_x: float = 0.0,
) -> None:
    """Fuselage, wings, tail and fin; `fin` is (root y, root chord, root z, tip y, tip chord, tip z)."""
    a.add("paint", hull(fuselage, exponent))
    glass = [
        (y, 0.93 * w, z0 + 0.62 * (z1 - z0), z1 + 0.006) for y, w, z0, z1 in band(fuselage, *cockpit, 0.004)
    ]
    a.add("glass", hull(glass, 3.0))
    if stripe:  # the row of cabin windows
        a.add(
            "dark",
            hull(
                [
                    (y, w, z0 + 0.56 * (z1 - z0), z0 + 0.66 * (z1 - z0))
                    for y, w, z0, z1 in band(fuselage, *stripe, 0.002)
                ],
                8.0,
            ),
        )
    for wing in wings:
        _wing(a, wing)
    _wing(a, tail)
    y0, chord0, z0, y1, chord1, z1 = fin
    upright = blade(
        [(fin_x, y0, z0), (fin_x, y0 + chord0, z0)],
        [(1.5 * fin_x, y1, z1), (1.5 * fin_x, y1 + chord1, z1)],
        (0.03, 0.012),
        0,
    )
    if fin_x:
        a.add_pair("paint2", upright)
    else:
        a.add("paint2", upright)
    wing_root_z, tip = wings[0][2], wings[0]
    a.anchor("{}_wing", (tip[3], tip[4] + tip[5] / 2, tip[6]))
    a.anchor("{}_elevator", (tail[3], tail[4] + tail[5] / 2, tail[6]))
    a.anchor("rudder_upper", (0, y1 + chord1, z1))
    a.anchor("rudder_lower", (0, y0, z0))
    a.anchor("noselanding", (0, fuselage[0][0] + 0.1, min(wing_root_z, fuselage[1][2])))
    a.anchor("tail", (0, fuselage[-1][0], (fuselage[-1][2] + fuselage[-1][3]) / 2))


def _airliner(a: Assembly) -> None:
    body = [
        (-0.5, 0.008, -0.03, -0.015),
        (-0.47, 0.034, -0.045, 0.022),
        (-0.41, 0.054, -0.055, 0.05),
        (0.2, 0.055, -0.055, 0.055),
        (0.38, 0.038, -0.02, 0.055),
        (0.5, 0.012, 0.02, 0.045),
    ]
    _aeroplane(
        a,
        body,
        [(-0.13, 0.24, -0.03, 0.46, 0.16, 0.07, 0.03)],
        (0.37, 0.13, 0.03, 0.18, 0.45, 0.06, 0.045),
        (0.31, 0.18, 0.03, 0.44, 0.08, 0.24),
        (-0.455, -0.425),
        stripe=(-0.38, 0.3),
    )
    _engine(a, 0.17, -0.1, -0.065, 0.032, 0.13)


def _jumbo(a: Assembly) -> None:
    body = [
        (-0.5, 0.01, -0.04, -0.015),
        (-0.465, 0.042, -0.06, 0.055),
        (-0.4, 0.06, -0.066, 0.105),
        (-0.2, 0.062, -0.066, 0.105),
        (-0.08, 0.062, -0.066, 0.066),
        (0.2, 0.062, -0.066, 0.066),
        (0.38, 0.042, -0.02, 0.064),
        (0.5, 0.012, 0.025, 0.05),
    ]
    _aeroplane(
        a,
        body,
        [(-0.2, 0.33, -0.035, 0.44, 0.22, 0.06, 0.05)],
        (0.35, 0.15, 0.03, 0.2, 0.47, 0.06, 0.05),
        (0.3, 0.2, 0.04, 0.46, 0.08, 0.25),
        (-0.455, -0.425),
        stripe=(-0.36, 0.3),
    )
    _engine(a, 0.15, -0.14, -0.07, 0.03, 0.12)
    _engine(a, 0.29, -0.0, -0.05, 0.028, 0.11)


def _fighter(a: Assembly) -> None:
    body = [
        (-0.5, 0.004, -0.02, -0.01),
        (-0.36, 0.032, -0.04, 0.02),
        (-0.2, 0.05, -0.045, 0.035),
        (0.05, 0.085, -0.045, 0.035),
        (0.36, 0.085, -0.04, 0.035),
        (0.46, 0.06, -0.025, 0.025),
    ]
    _aeroplane(
        a,
        body,
        [(-0.1, 0.5, -0.005, 0.33, 0.28, 0.1, -0.005)],
        (0.34, 0.16, 0.0, 0.2, 0.44, 0.08, 0.0),
        (0.22, 0.2, 0.02, 0.4, 0.09, 0.19),
        (-0.33, -0.31),
        exponent=2.6,
        fin_x=0.065,
    )
    a.add(
        "glass",
        hull(
            [
                (-0.34, 0.012, 0.0, 0.03),
                (-0.27, 0.028, 0.01, 0.068),
                (-0.17, 0.026, 0.01, 0.066),
                (-0.07, 0.01, 0.02, 0.04),
            ]
        ),
    )
    a.add_pair("dark", tube([(0.04, 0.44, 0), (0.04, 0.5, 0)], [0.036, 0.03], 12))
    a.add_pair("dark", box((0.055, -0.1, -0.04), (0.09, -0.05, 0.02)))


def _light_plane(a: Assembly) -> None:
    body = [
        (-0.46, 0.045, -0.06, 0.03),
        (-0.42, 0.07, -0.085, 0.045),
        (-0.24, 0.085, -0.1, 0.055),
        (-0.18, 0.088, -0.1, 0.13),
        (0.0, 0.085, -0.095, 0.13),
        (0.14, 0.055, -0.05, 0.07),
        (0.5, 0.016, 0.01, 0.045),
    ]
    _aeroplane(
        a,
        body,
        [(-0.17, 0.2, 0.135, 0.66, -0.14, 0.14, 0.155)],
        (0.37, 0.13, 0.03, 0.22, 0.4, 0.09, 0.03),
        (0.33, 0.15, 0.03, 0.42, 0.09, 0.23),
        (-0.235, -0.175),
        exponent=3.0,
    )
    a.add("glass", box((-0.09, -0.15, 0.045), (0.09, -0.01, 0.105)))
    _propeller(a, -0.47, -0.015, 0.16)
    a.add_pair(
        "metal",
        tube([(0.05, -0.1, -0.06), (0.16, -0.1, -0.17)], 0.01, 8),
        tube([(0.08, -0.1, -0.05), (0.33, -0.09, 0.14)], 0.009, 8),
    )
    a.add("metal", tube([(0, -0.38, -0.06), (0, -0.4, -0.17)], 0.01, 8))
    for x in (-0.17, 0.0, 0.17):
        y = -0.1 if x else -0.4
        a.add("tyre", tube([(x - 0.014, y, -0.175), (x + 0.014, y, -0.175)], 0.04, 14))


def _business_jet(a: Assembly) -> None:
    body = [
        (-0.5, 0.008, -0.025, -0.01),
        (-0.44, 0.035, -0.045, 0.015),
        (-0.34, 0.058, -0.058, 0.06),
        (0.12, 0.058, -0.058, 0.06),
        (0.34, 0.035, -0.02, 0.055),
        (0.5, 0.012, 0.02, 0.045),
    ]
    _aeroplane(
        a,
        body,
        [(0.0, 0.2, -0.045, 0.42, 0.17, 0.07, 0.0)],
        (0.42, 0.11, 0.235, 0.2, 0.49, 0.06, 0.24),
        (0.28, 0.2, 0.03, 0.41, 0.13, 0.24),
        (-0.41, -0.345),
        stripe=(-0.26, 0.08),
    )
    _engine(a, 0.1, 0.14, 0.045, 0.04, 0.17)


def _biplane(a: Assembly) -> None:
    body = [
        (-0.45, 0.07, -0.075, 0.065),
        (-0.38, 0.085, -0.09, 0.08),
        (-0.1, 0.075, -0.085, 0.07),
        (0.1, 0.062, -0.07, 0.065),
        (0.5, 0.014, -0.01, 0.03),
    ]
    lower, upper = (-0.2, 0.19, -0.075, 0.52, -0.18, 0.16, -0.06), (-0.29, 0.2, 0.2, 0.56, -0.27, 0.17, 0.21)
    _aeroplane(
        a,
        body,
        [upper, lower],
        (0.36, 0.13, 0.01, 0.2, 0.4, 0.09, 0.01),
        (0.35, 0.13, 0.02, 0.41, 0.1, 0.19),
        (0.02, 0.03),
        exponent=2.4,
    )
    a.add("glass", box((-0.05, -0.07, 0.05), (0.05, -0.04, 0.13)))
    a.add("dark", tube([(0, -0.01, 0.04), (0, -0.01, 0.085)], 0.045, 12))
    a.add("dark", tube([(0, -0.465, -0.005), (0, -0.44, -0.005)], 0.055, 14))
    _propeller(a, -0.49, -0.005, 0.17)
    for x in (0.12, 0.42):
        a.add_pair(
            "metal",
            tube([(x, -0.17, -0.07), (x, -0.23, 0.2)], 0.008, 8),
            tube([(x, -0.05, -0.07), (x, -0.13, 0.2)], 0.008, 8),
        )
    a.add_pair("metal", tube([(0.05, -0.24, -0.06), (0.13, -0.27, -0.19)], 0.01, 8))
    a.add_pair("tyre", tube([(0.115, -0.27, -0.19), (0.15, -0.27, -0.19)], 0.055, 14))


AEROPLANES: tuple[Recipe, ...] = (_airliner, _jumbo, _fighter, _light_plane, _business_jet, _biplane)
