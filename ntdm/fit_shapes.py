"""`ntdm fit-shapes`: fit Γ(z) of every category to its CADs, and write the latents into the cache files.

For each category (shapes/category.py) meshes of the template's topology are fitted to the CADs
(shapes/fit_meshes.py) by Eq. 2 of arXiv 2306.00118 both ways (surface_loss.py) and by their outlines
(outline_loss.py), then Γ to the meshes (fit.py). The result is measured (quality.py) and shown (sheet.py).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ntdm.config.stages import ShapeConfig
from ntdm.io import cache
from ntdm.io.cache import Cad
from ntdm.io.outputs import sweep
from ntdm.io.progress import say
from ntdm.shapes import nearest_faces
from ntdm.shapes.category import LatentFit, Plot, ShapeFit, fingerprint, fit_category


def run(
    config: ShapeConfig,
    cache_dir: Path | None,
    out: Path,
    categories: Sequence[str] | None = None,
    overwrite: bool = False,
    cads: Mapping[str, Callable[[], Mapping[int, Cad]]] | None = None,
    frozen: bool = False,
    plot: Plot | None = None,
    device: str = "cpu",
) -> Path:
    """Fit every category and write its latents into the cache files it came from.

    A category is finished when its files are whole; the same command again goes on with the next one.

    Args:
        config: template, network, loss.
        cache_dir: as prep-data wrote it, or None with `cads`.
        out: folder of the shapes.
        categories: those to fit, all by default.
        overwrite: fit again what was fitted with another config.
        cads: category -> what returns its CADs by cad_index, for CADs without photos.
        frozen: the shapes in `out` stay as they are; the CADs get latents under them.
        plot: draws the convergence plot of (title, history, path).
        device: of the descents; visibility, starts and quality are computed on the CPU.

    Returns:
        out, with <category>.safetensors, .json, meshes/, sheets/; with frozen, latents/ instead.

    Raises:
        ValueError: no cache file, an unknown category, CUDA without Kaolin; after all others are done, those
            that failed and why.
    """
    nearest_faces.check(device)
    if Path(out).is_file():
        raise ValueError(f"{out} is a file: name a folder for the shapes")
    sweep(Path(out))
    cache_files = _cache_files(Path(cache_dir)) if cache_dir is not None else {}
    available = set(cache_files) if cads is None else set(cads)
    missing = sorted(set(categories or ()) - available)
    if missing and cads is not None:
        where = cache_dir if cache_dir is not None else "the CAD folder"
        raise ValueError(f"no CADs of category {missing[0]} in {where}")
    if not available or missing:
        what = f"of category {missing[0]} " if missing else ""
        raise ValueError(f"no cache file {what}below {cache_dir}; `ntdm prep-data` makes them")
    selected = [c for c in sorted(available) if categories is None or c in categories]
    failures = []
    for category in selected:
        files = cache_files.get(category, [])
        try:
            models = dict(cads[category]()) if cads is not None else collect_cads(files)
            if not models:
                more = f" nor {len(files) - 1} more" if len(files) > 1 else ""
                raise ValueError(f"no CAD in {files[0]}{more}")
            task = (LatentFit if frozen else ShapeFit)(category, models, config, Path(out))
            latents = fit_category(task, overwrite, plot, device)
            write_sample_latents(files, list(models), latents)
        except ValueError as error:
            failures.append(f"{category}: {str(error).removeprefix(f'{category}: ')}")
            say(failures[-1])
    if failures:
        done = len(selected) - len(failures)
        raise ValueError("; ".join(failures) + (f"; the {done} others are done" if done else ""))
    return Path(out)


def default_device() -> str:
    """Where fit-shapes computes by default: on CUDA where torch sees a device and Kaolin imports.

    Says so where only Kaolin is missing.

    Returns:
        "cuda" or "cpu".
    """
    if not torch.cuda.is_available():
        return "cpu"
    if reason := nearest_faces.missing():
        say(f"fit-shapes computes on the CPU: on CUDA it needs Kaolin ({reason})")
        return "cpu"
    return "cuda"


def collect_cads(files: Sequence[Path]) -> dict[int, Cad]:
    """The CADs of a category's cache files, cad_index ascending.

    Raises:
        ValueError: two files carry different CADs.
    """
    cads: dict[int, Cad] = {}
    source = files[0]
    for path in files:
        with cache.CacheFile(path) as file:
            here = file.cads()
        if cads and here and fingerprint(here) != fingerprint(cads):
            raise ValueError(f"{path} and {source} carry different CADs; prepare both from the same ones")
        if here and not cads:
            cads, source = here, path
    return cads


def write_sample_latents(files: Sequence[Path], cad_index: list[int], latents: np.ndarray) -> None:
    """Write the latent of every sample's CAD into cache files; a file with samples of no CAD gets none.

    Args:
        files: cache files of one category.
        cad_index: [N] of the CADs that were fitted.
        latents: [N, K] of these.

    Raises:
        ValueError: a sample names a CAD that its file does not carry.
    """
    for path in files:
        with cache.CacheFile(path) as file:
            index, has_cads = file["cad_index"], bool(file.cads())
            one_hot = index[:, None] == np.array(cad_index)[None]
            latent = one_hot.astype(np.float32) @ latents
            unchanged = "latent" in file and np.array_equal(file["latent"], latent)
        if not has_cads or (index < 0).any():
            say(f"{path}: samples without a CAD, no latents written")
            continue
        if not one_hot.any(1).all():
            missing = index[~one_hot.any(1)][0] + 1
            raise ValueError(f"{path}: a sample names CAD {missing:02d}, which is not in the file")
        if not unchanged:
            cache.write_latents(path, latent)


def _cache_files(cache_dir: Path) -> dict[str, list[Path]]:
    """The cache files of each category."""
    sweep(cache_dir)
    groups: dict[str, list[Path]] = {}
    for path in sorted(cache_dir.glob("*/*/[!.]*.h5")):
        groups.setdefault(path.stem, []).append(path)
    return groups
