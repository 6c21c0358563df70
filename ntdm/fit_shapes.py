"""`ntdm fit-shapes`: fit Γ(z) of every category to its CADs by vertex-to-face distances.

Equations are those of arXiv 2306.00118.

First meshes of the template's topology are fitted to the CADs (fit_meshes.py), by Eq. 2 both ways
(surface_loss.py) and by their outlines (outline_loss.py), then Γ to the meshes. How well it went is measured
(quality.py) and shown (sheet.py). :func:`fit_latents` finds latents for CADs that Γ was not fitted to.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntdm.config.reading import to_dict
from ntdm.config.stages import ShapeConfig
from ntdm.geometry.mesh import Cad
from ntdm.geometry.obj import write_plain_obj
from ntdm.io import cache
from ntdm.io.outputs import atomic_path, sweep, up_to_date
from ntdm.io.progress import say, track
from ntdm.shapes import nearest_faces
from ntdm.shapes.files import load_shape, read_meta, save_shape
from ntdm.shapes.fit import fit, fit_latents
from ntdm.shapes.quality import ShapeQuality
from ntdm.shapes.sheet import write_sheet
from ntdm.shapes.visible_surface import Surface, visible_surface

BETWEEN = (0.25, 0.5, 0.75)  # of the way from one CAD's latent to the next one's

Plot = Callable[[str, Sequence[Sequence[float]], Path], None]


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
        frozen: the shapes in `out` stay as they are; the CADs get latents by :func:`fit_latents`.
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
    groups = _cache_files(Path(cache_dir)) if cache_dir is not None else {}
    where = cache_dir if cache_dir is not None else "the CAD folder"
    known = set(groups) if cads is None else set(cads)
    missing = sorted(set(categories or ()) - known)
    if missing and cads is not None:
        raise ValueError(f"no CADs of category {missing[0]} in {where}")
    if not known or missing:
        what = f"of category {missing[0]} " if missing else ""
        raise ValueError(f"no cache file {what}below {cache_dir}; `ntdm prep-data` makes them")
    wanted = [c for c in sorted(known) if categories is None or c in categories]
    failures = []
    for category in wanted:
        files = groups.get(category, [])
        try:
            found = dict(cads[category]()) if cads is not None else _collect_cads(files)
            if not found:
                more = f" nor {len(files) - 1} more" if len(files) > 1 else ""
                raise ValueError(f"no CAD in {files[0]}{more}")
            latents = (_freeze if frozen else _fit)(
                category, found, config, Path(out), overwrite, plot, device
            )
            _write_latents(files, list(found), latents)
        except ValueError as error:
            failures.append(f"{category}: {str(error).removeprefix(f'{category}: ')}")
            say(failures[-1])
    if failures:
        others = f"; the {len(wanted) - len(failures)} others are done" if len(wanted) > len(failures) else ""
        raise ValueError("; ".join(failures) + others)
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


def _cache_files(cache_dir: Path) -> dict[str, list[Path]]:
    sweep(cache_dir)
    groups: dict[str, list[Path]] = {}
    for path in sorted(cache_dir.glob("*/*/[!.]*.h5")):
        groups.setdefault(path.stem, []).append(path)
    return groups


def _fit(
    category: str,
    cads: Mapping[int, Cad],
    config: ShapeConfig,
    out: Path,
    overwrite: bool,
    plot: Plot | None,
    device: str,
) -> np.ndarray:
    """Fit one category unless that is done; returns the latents [K, K]."""
    path = out / f"{category}.safetensors"
    made_with = {**to_dict(config), "cads": _fingerprint(cads)}
    done = path.exists() and path.with_suffix(".json").exists() and not overwrite
    if done and up_to_date(path, read_meta(path).get("made_with", {}), made_with, overwrite):
        return np.eye(len(cads), dtype=np.float32)
    start = time.monotonic()
    surfaces = _surfaces(category, cads, config.seed)
    model, history = fit(surfaces, config, f"{category}: fitting {len(cads)} CADs", device)
    z = model.one_hot()
    with torch.no_grad():
        shapes, mean_shape = model(z), model(z.mean(0, keepdim=True))[0]
    folder, numbers = out / "meshes", [f"{k + 1:02d}" for k in cads]
    for number, vertices in zip(numbers, shapes, strict=True):
        write_plain_obj(folder / f"{category}_{number}.obj", vertices, model.template_faces)
    write_plain_obj(folder / f"{category}_mean.obj", mean_shape, model.template_faces)
    for a in range(len(z) - 1):
        for share in BETWEEN:
            with torch.no_grad():
                (vertices,) = model(torch.lerp(z[a : a + 1], z[a + 1 : a + 2], share))
            name = f"{category}_{numbers[a]}_to_{numbers[a + 1]}_{100 * share:.0f}.obj"
            write_plain_obj(folder / name, vertices, model.template_faces)
    measured = _measure(category, cads, surfaces, shapes, model.template_faces)
    sheet = out / "sheets" / f"{category}.png"
    write_sheet(sheet, category, cads, surfaces, shapes, model.template_faces)
    _plot(plot, f"{category}, {len(cads)} CADs", history, sheet)
    meta = {
        "category": category,
        "cad_index": list(cads),
        "made_with": made_with,
        "quality": measured,
        "history": history,
        "seconds": round(time.monotonic() - start, 1),
    }
    save_shape(path, model, meta)
    say(f"{category}: {len(cads)} CADs, {_in_words(measured['mean'])}, {meta['seconds']:.0f} s")
    return z.numpy()


def _freeze(
    category: str,
    cads: Mapping[int, Cad],
    config: ShapeConfig,
    out: Path,
    overwrite: bool,
    plot: Plot | None,
    device: str,
) -> np.ndarray:
    """Latents [N, K] of the category's CADs under the shape in `out`, which may never have seen them."""
    model = load_shape(out / f"{category}.safetensors")
    path = out / "latents" / f"{category}.json"
    fitted_to = read_meta(out / f"{category}.safetensors").get("made_with", {})
    made_with = {"shape": fitted_to, "cads": _fingerprint(cads), "seed": config.seed}
    if path.exists() and not overwrite:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before, rows = content["made_with"], np.array(list(content["latents"].values()), np.float32)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged: pass --overwrite to make it again") from None
        if up_to_date(path, before, made_with, overwrite):
            if rows.shape != (len(cads), model.num_latents):
                raise ValueError(f"{path} is damaged: pass --overwrite to make it again")
            return rows
    surfaces = _surfaces(category, cads, config.seed)
    label = f"{category}: latents of {len(cads)} CADs"
    z, history = fit_latents(model.to(device), surfaces, label, config.seed)
    model, z = model.cpu(), z.cpu()
    with torch.no_grad():
        shapes = model(z)
    for k, vertices in zip(cads, shapes, strict=True):
        name = f"{category}_{k + 1:02d}.obj"
        write_plain_obj(out / "latents" / "meshes" / name, vertices, model.template_faces)
    measured = _measure(category, cads, surfaces, shapes, model.template_faces)
    sheet = out / "latents" / f"{category}.png"
    write_sheet(sheet, category, cads, surfaces, shapes, model.template_faces)
    _plot(plot, f"{category}, latents of {len(cads)} CADs", history, sheet)
    content = {
        "schema": "ntdm-latents",
        "schema_version": 1,
        "category": category,
        "made_with": made_with,
        "latents": {str(k): row for k, row in zip(cads, z.tolist(), strict=True)},
        "quality": measured,
        "history": history,
    }
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"{category}: latents of {len(cads)} CADs, {_in_words(measured['mean'])}")
    return z.numpy()


def _plot(plot: Plot | None, title: str, history: Sequence[Sequence[float]], sheet: Path) -> None:
    """The convergence plot, beside the sheet."""
    if plot is not None:
        with atomic_path(sheet.with_stem(f"{sheet.stem}_convergence")) as part:
            plot(title, history, part)


def _surfaces(category: str, cads: Mapping[int, Cad], seed: int) -> list[Surface]:
    generator = torch.Generator().manual_seed(seed)
    return [
        visible_surface(cad, generator, f"CAD {k + 1:02d} of {category}")
        for k, cad in track(cads.items(), f"{category}: visible surfaces", len(cads))
    ]


def _measure(
    category: str, cads: Mapping[int, Cad], surfaces: Sequence[Surface], shapes: Tensor, faces: Tensor
) -> dict[str, Any]:
    """What ShapeQuality says of every mesh, by cad_index, and the mean."""
    pairs = track(zip(cads.values(), surfaces, shapes, strict=True), f"{category}: measuring", len(cads))
    measured = [ShapeQuality(cad, surface)(vertices, faces) for cad, surface, vertices in pairs]
    mean = {name: float(np.mean([m[name] for m in measured])) for name in measured[0]}
    return {"mean": mean, **{str(k): m for k, m in zip(cads, measured, strict=True)}}


def _in_words(mean: Mapping[str, float]) -> str:
    return (
        f"silhouette IoU {mean['silhouette_iou']:.3f}, Chamfer-L1 {mean['chamfer_l1']:.4f}, F-score "
        f"{mean['f_score']:.3f}, {100 * mean['flipped']:.1f} % of the faces flipped, "
        f"{100 * mean['crossing']:.1f} % crossing"
    )


def _collect_cads(files: Sequence[Path]) -> dict[int, Cad]:
    """The category's CADs, cad_index ascending; every file that carries CADs must carry the same."""
    cads: dict[int, Cad] = {}
    source = files[0]
    for path in files:
        with cache.CacheFile(path) as file:
            found = file.cads()
        if cads and found and _fingerprint(found) != _fingerprint(cads):
            raise ValueError(f"{path} and {source} carry different CADs; prepare both from the same ones")
        if found and not cads:
            cads, source = found, path
    return cads


def _write_latents(files: Sequence[Path], cad_index: list[int], latents: np.ndarray) -> None:
    """latents [N, K] of the CADs `cad_index`; a file whose samples have no CAD (cad_index -1) gets none."""
    for path in files:
        with cache.CacheFile(path) as file:
            index, carries = file["cad_index"], bool(file.cads())
            named = index[:, None] == np.array(cad_index)[None]
            latent = named.astype(np.float32) @ latents
            written = "latent" in file and np.array_equal(file["latent"], latent)
        if not carries or (index < 0).any():
            say(f"{path}: samples without a CAD, no latents written")
            continue
        if not named.any(1).all():
            missing = index[~named.any(1)][0] + 1
            raise ValueError(f"{path}: a sample names CAD {missing:02d}, which is not in the file")
        if not written:
            cache.write_latents(path, latent)


def _fingerprint(cads: Mapping[int, Cad]) -> str:
    digest = hashlib.sha256()
    for k, (vertices, faces) in cads.items():
        digest.update(f"{k} {vertices.shape} {faces.shape}".encode())
        digest.update(np.ascontiguousarray(vertices, np.float32).tobytes())
        digest.update(np.ascontiguousarray(faces, np.int32).tobytes())
    return digest.hexdigest()[:16]
