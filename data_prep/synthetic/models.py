"""The CAD models of a category: the built-in ones, or those of a PASCAL3D+ tree.

Training, validation and all nuisances but one show the first models of a category; the last ones (two where
there are six or more, else one) appear only in OOD-CV's shape nuisance, and so does a stretched copy of each
model that is held back, whose file number comes after all others. Of a single model only the stretched copy
is held back.

Each built-in recipe works in its own units with the front at -y; Assembly.finish normalises. Materials: paint
and paint2 are coloured anew in every photo; glass, tyre, metal, dark, headlight, taillight and frame keep the
look that makes a category's parts recognisable.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ntdm.data_prep.raw.cad import read_cads
from ntdm.data_prep.synthetic.catalogue.aeroplanes import AEROPLANES
from ntdm.data_prep.synthetic.catalogue.furniture import CHAIRS, SOFAS
from ntdm.data_prep.synthetic.catalogue.motorbikes import MOTORBIKES
from ntdm.data_prep.synthetic.catalogue.road import BUSES, CARS
from ntdm.data_prep.synthetic.parts import with_parts
from ntdm.data_prep.synthetic.solids import OFF_DECIMALS, Assembly, Cad, Recipe, crease_normals
from ntdm.data_prep.synthetic.stretch import non_rigid

SMALLEST, LARGEST = 0.1, 10.0  # CAD units: diagonals of released models that are shown

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "aeroplane": AEROPLANES,
    "bus": BUSES,
    "car": CARS,
    "chair": CHAIRS,
    "motorbike": MOTORBIKES,
    "sofa": SOFAS,
}


@dataclass(frozen=True)
class Models:
    """The models of a category by file number (1 is 01.off), and which of them training never shows."""

    cads: dict[int, Cad]
    training: tuple[int, ...]
    unseen: tuple[int, ...]
    stretched: tuple[int, ...] = ()  # of the unseen ones


@cache
def built_in(category: str) -> tuple[Cad, ...]:
    """The built-in models of a category.

    Raises:
        ValueError: the category has none.
    """
    if category not in RECIPES:
        names = ", ".join(RECIPES)
        raise ValueError(
            f"category {category!r} has no built-in CAD models; choose among {names}, or give --cad-root"
        )
    cads = []
    for recipe in RECIPES[category]:
        assembly = Assembly()
        recipe(assembly)
        cads.append(assembly.finish())
    return tuple(cads)


@cache
def models(category: str, cad_root: Path | None = None) -> Models:
    """The models that photos of a category show.

    Args:
        category: one of PASCAL3D+'s.
        cad_root: a PASCAL3D+ tree with CAD/<category>/NN.off or CAD/<category>.mat; None: the built-in ones.

    Raises:
        ValueError: the category has no built-in models, or the tree has none of it, or one that is damaged.
    """
    if cad_root is None:
        cads = dict(enumerate(built_in(category), 1))
    else:
        released, broken, _ = read_cads(cad_root, category)
        if broken:
            raise ValueError(
                f"{next(iter(broken.values()))}; mend or remove it: photos are taken of every model"
            )
        for k, (vertices, faces) in released.items():
            diagonal = float(np.linalg.norm(np.ptp(vertices[np.unique(faces)], axis=0)))
            if not SMALLEST <= diagonal <= LARGEST:
                raise ValueError(
                    f"CAD {k + 1:02d} of {category} in {cad_root} has a diagonal of {diagonal:.3g}: photos"
                    f" are taken of models of {SMALLEST:g} to {LARGEST:g} units; mend or remove it"
                )
        cads = {k + 1: with_parts(*model, category) for k, model in released.items()}
    training, unseen = _held_back(list(cads))
    stretched = tuple(range(max(cads) + 1, max(cads) + 1 + len(unseen or training)))
    for number, original in zip(stretched, unseen or training, strict=True):
        seed = zlib.crc32(f"{category} {original}".encode())
        cads[number] = _stretched(cads[original], np.random.default_rng(seed), category)
    return Models(cads, training, (*unseen, *stretched), stretched)


def _stretched(cad: Cad, rng: np.random.Generator, category: str) -> Cad:
    """A model in another shape, the parts as they were or, of a CAD without names, found anew."""
    move = non_rigid(cad.vertices[np.unique(cad.faces)], rng)
    vertices = move(cad.vertices)
    if not cad.anchors:
        return with_parts(vertices, cad.faces, category)
    return dataclasses.replace(
        cad,
        vertices=np.round(vertices, OFF_DECIMALS),
        anchors={name: move(point[None])[0] for name, point in cad.anchors.items()},
        corner_normals=crease_normals(vertices, cad.faces).astype(np.float32),
    )


def fingerprint(cad_root: Path, categories: Sequence[str]) -> str:
    """Tells the CADs of a tree from others: a digest of the models that it has of the categories."""
    digest = hashlib.sha256()
    for category in categories:
        for number, cad in models(category, cad_root).cads.items():
            digest.update(f"{category} {number}".encode() + cad.vertices.tobytes() + cad.faces.tobytes())
    return digest.hexdigest()[:16]


def _held_back(numbers: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The file numbers that training shows, and those it does not."""
    back = 2 if len(numbers) >= 6 else min(1, len(numbers) - 1)
    return tuple(numbers[: len(numbers) - back]), tuple(numbers[len(numbers) - back :])
