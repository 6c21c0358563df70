"""The built-in CAD models by category: six differently shaped ones each.

Each recipe works in its own units with the front at -y; Assembly.finish normalises. Materials: paint and
paint2 are coloured anew in every photo; glass, tyre, metal, dark, headlight, taillight and frame keep the
look that makes a category's parts recognisable.
"""

from functools import cache

from ntdm.data_prep.synthetic_aeroplanes import AEROPLANES
from ntdm.data_prep.synthetic_cad import Assembly, Cad, Recipe
from ntdm.data_prep.synthetic_furniture import CHAIRS, SOFAS
from ntdm.data_prep.synthetic_motorbikes import MOTORBIKES
from ntdm.data_prep.synthetic_road import BUSES, CARS

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "aeroplane": AEROPLANES,
    "bus": BUSES,
    "car": CARS,
    "chair": CHAIRS,
    "motorbike": MOTORBIKES,
    "sofa": SOFAS,
}


@cache
def build(category: str) -> tuple[Cad, ...]:
    """The built-in models of a category, in the order of their files 01.off, 02.off, ...

    Raises:
        ValueError: the category has no built-in models.
    """
    if category not in RECIPES:
        names = ", ".join(RECIPES)
        raise ValueError(f"category {category!r} has no built-in CAD models; choose among {names}")
    cads = []
    for recipe in RECIPES[category]:
        assembly = Assembly()
        recipe(assembly)
        cads.append(assembly.finish())
    return tuple(cads)
