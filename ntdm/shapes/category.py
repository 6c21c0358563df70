"""One category's fit, from its CADs to its files: Γ and its latents, or latents under a Γ that stays.

Both take the same way (:func:`fit_category`): visible surfaces, a descent, meshes, quality, sheet, record.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntdm.config.reading import to_dict
from ntdm.config.stages import ShapeConfig
from ntdm.geometry.obj import write_plain_obj
from ntdm.io.cache import Cads
from ntdm.io.outputs import atomic_path, up_to_date
from ntdm.io.progress import say
from ntdm.nn.deformable_mesh import DeformableMesh
from ntdm.shapes import files
from ntdm.shapes.fit import Fit, fit, fit_latents
from ntdm.shapes.quality import in_words, measure
from ntdm.shapes.sheet import write_sheet
from ntdm.shapes.visible_surface import Surface, visible_surfaces

BETWEEN = (0.25, 0.5, 0.75)  # of the way from one CAD's latent to the next one's

Plot = Callable[[str, Sequence[Sequence[float]], Path], None]


class ShapeFit:
    """Γ of one category is fitted to its CADs.

    Args:
        category: its name.
        cads: by cad_index, ascending.
        config: template, network, loss.
        out: folder of the shapes.
    """

    def __init__(self, category: str, cads: Cads, config: ShapeConfig, out: Path) -> None:
        self.category, self.cads, self.config, self.out = category, cads, config, out
        self.shape_path = out / f"{category}.safetensors"

    @property
    def subject(self) -> str:
        """What is fitted to, in words."""
        return f"{len(self.cads)} CADs"

    @property
    def meshes(self) -> Path:
        """Folder of the fitted meshes."""
        return self.out / "meshes"

    @property
    def sheet(self) -> Path:
        """The picture sheet."""
        return self.out / "sheets" / f"{self.category}.png"

    @functools.cached_property
    def made_with(self) -> dict[str, Any]:
        """What decides the result."""
        return {**to_dict(self.config), "cads": fingerprint(self.cads)}

    def stored(self) -> np.ndarray | None:
        """The latents [N, K] of an earlier run; None where there are none. ValueError: of another config."""
        if not files.is_whole(self.shape_path):
            return None
        made_with = files.read_meta(self.shape_path).get("made_with", {})
        up_to_date(self.shape_path, made_with, self.made_with, overwrite=False)
        return np.eye(len(self.cads), dtype=np.float32)

    def fit(self, surfaces: Sequence[Surface], device: str) -> Fit:
        """The descent."""
        return fit(surfaces, self.config, f"{self.category}: fitting {self.subject}", device)

    def save(self, fitted: Fit, quality: Mapping[str, Any], seconds: float) -> None:
        """Write the record, which makes the result whole, and the meshes between the CADs."""
        _write_between(self.meshes, self.category, list(self.cads), fitted)
        meta = {
            "category": self.category,
            "cad_index": list(self.cads),
            "made_with": self.made_with,
            "quality": quality,
            "history": fitted.history,
            "seconds": round(seconds, 1),
        }
        files.save_shape(self.shape_path, fitted.model, meta)
        say(f"{self.category}: {self.subject}, {in_words(quality['mean'])}, {meta['seconds']:.0f} s")


class LatentFit(ShapeFit):
    """Latents of CADs under the Γ in `out`, which stays and may never have seen them.

    Arguments as :class:`ShapeFit`; ValueError where `out` has no Γ of the category.
    """

    def __init__(self, category: str, cads: Cads, config: ShapeConfig, out: Path) -> None:
        super().__init__(category, cads, config, out)
        self.model: DeformableMesh = files.load_shape(self.shape_path)
        self.path = out / "latents" / f"{category}.json"

    @property
    def subject(self) -> str:
        return f"latents of {super().subject}"

    @property
    def meshes(self) -> Path:
        return self.path.parent / "meshes"

    @property
    def sheet(self) -> Path:
        return self.path.with_suffix(".png")

    @functools.cached_property
    def made_with(self) -> dict[str, Any]:
        shape = files.read_meta(self.shape_path).get("made_with", {})
        return {"shape": shape, "cads": fingerprint(self.cads), "seed": self.config.seed}

    def stored(self) -> np.ndarray | None:
        if not self.path.exists():
            return None
        made_with, latents = files.read_latents(self.path)
        up_to_date(self.path, made_with, self.made_with, overwrite=False)
        if latents.shape != (len(self.cads), self.model.num_latents):
            raise files.damaged(self.path)
        return latents

    def fit(self, surfaces: Sequence[Surface], device: str) -> Fit:
        label = f"{self.category}: {self.subject}"
        return fit_latents(self.model, surfaces, label, self.config.seed, device)

    def save(self, fitted: Fit, quality: Mapping[str, Any], seconds: float) -> None:
        meta = {"quality": quality, "history": fitted.history}
        latents = fitted.latents.numpy()
        files.save_latents(self.path, self.category, self.made_with, list(self.cads), latents, meta)
        say(f"{self.category}: {self.subject}, {in_words(quality['mean'])}")


def fit_category(task: ShapeFit, overwrite: bool, plot: Plot | None, device: str) -> np.ndarray:
    """Fit one category, unless that is done, and write its files.

    Args:
        task: a :class:`ShapeFit` or :class:`LatentFit`.
        overwrite: fit again what was fitted before.
        plot: draws the convergence plot of (title, history, path).
        device: of the descent; visibility, starts and quality are computed on the CPU.

    Returns:
        latents f32 [N, K] of the N CADs.

    Raises:
        ValueError: a CAD that cannot be fitted, a fit that diverges, a result of another config.
    """
    latents = None if overwrite else task.stored()
    if latents is not None:
        return latents
    start = time.monotonic()
    category, cads = task.category, task.cads
    surfaces = visible_surfaces(category, cads, task.config.seed)
    fitted = task.fit(surfaces, device)
    faces = fitted.model.template_faces
    with torch.no_grad():
        shapes = fitted.model(fitted.latents)
    for k, vertices in zip(cads, shapes, strict=True):
        write_plain_obj(task.meshes / f"{category}_{k + 1:02d}.obj", vertices, faces)
    quality = measure(category, cads, surfaces, shapes, faces)
    write_sheet(task.sheet, category, cads, surfaces, shapes, faces)
    if plot is not None:
        with atomic_path(task.sheet.with_stem(f"{task.sheet.stem}_convergence")) as part:
            plot(f"{category}, {task.subject}", fitted.history, part)
    task.save(fitted, quality, time.monotonic() - start)
    return fitted.latents.numpy()


def fingerprint(cads: Cads) -> str:
    """Hexadecimal digest of the CADs' numbers, as the cache stores them."""
    digest = hashlib.sha256()
    for k, (vertices, faces) in cads.items():
        digest.update(f"{k} {vertices.shape} {faces.shape}".encode())
        digest.update(np.ascontiguousarray(vertices, np.float32).tobytes())
        digest.update(np.ascontiguousarray(faces, np.int32).tobytes())
    return digest.hexdigest()[:16]


def _write_between(folder: Path, category: str, cad_index: Sequence[int], fitted: Fit) -> None:
    """OBJ files of the mean latent's mesh, and of those BETWEEN each CAD's latent and the next one's."""

    def write(name: str, z: Tensor) -> None:
        with torch.no_grad():
            (vertices,) = fitted.model(z[None])
        write_plain_obj(folder / f"{category}_{name}.obj", vertices, fitted.model.template_faces)

    z = fitted.latents
    write("mean", z.mean(0))
    for a in range(len(z) - 1):
        for share in BETWEEN:
            name = f"{cad_index[a] + 1:02d}_to_{cad_index[a + 1] + 1:02d}_{100 * share:.0f}"
            write(name, torch.lerp(z[a], z[a + 1], share))
