"""`ntdm inspect`: contact sheets, histograms and tables of cache files.

    <out>/<dataset>/<split>/<category>.png             samples over all azimuths: crop, CAD, masks
    <out>/<dataset>/<split>/<category>_viewpoints.png  histograms (drawn by ntdm.reports.diagnostics)

The CAD is projected anew with the stored camera, and compared with the stored amodal mask: a wrong camera,
CAD or mask shows in the picture and in the number.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ntdm.geometry.camera import Pinhole, cam_from_obj
from ntdm.geometry.metrics import iou
from ntdm.io.cache import CacheFile, Cad, Cads
from ntdm.io.outputs import atomic_path
from ntdm.io.progress import track
from ntdm.ops.amodal_mask import amodal_mask
from ntdm.ops.rasterize import coverage
from ntdm.viz import pictures

SHEET_ROWS = 12
TILE = 256  # pixels
HEADINGS = ("crop", "annotated CAD and box", "masks")
BOX_COLOUR, OCCLUDER_COLOUR = (255, 214, 0), (120, 120, 124)
LEGEND = (
    ("CAD outline", (255, 255, 255)),
    ("box", BOX_COLOUR),
    ("visible", pictures.VISIBLE_COLOUR),
    ("occluded", pictures.OCCLUDED_COLOUR),
)


@dataclass(frozen=True)
class Survey:
    """Summary of one cache file.

    Attributes:
        key: dataset/split/category.
        image_size: (H, W).
        viewpoint: f64 [N, 4] as in the cache: azimuth, elevation, theta (radians), distance (CAD units).
        cad_index: i16 [N], -1 where the sample has no CAD.
        cads: the cad_index of every CAD in the file, ascending.
        dropped: reason -> count, what prep-data left out.
        least_iou: of the sheet's amodal masks with their CADs projected anew; None: no sample has a CAD.
        sheet: the contact sheet, None for a file without samples.
    """

    key: str
    image_size: tuple[int, int]
    viewpoint: np.ndarray
    cad_index: np.ndarray
    cads: tuple[int, ...]
    dropped: dict[str, int]
    least_iou: float | None
    sheet: Path | None

    def samples_by_cad(self) -> dict[str, int]:
        """CAD file number, as in `07.off`, or "none" -> samples; CADs without a sample too."""
        count = Counter(self.cad_index.tolist())
        return {_cad_label(k): count[k] for k in sorted({*self.cads, *count})}


Draw = Callable[[str, np.ndarray, Mapping[str, int], Mapping[str, int], Path], None]


def run(caches: Sequence[Path], out: Path, draw: Draw) -> str:
    """Write the pictures of every cache file; returns the summary, a text of three tables.

    Args:
        caches: folders of cache files, at any depth, or files.
        out: folder for the pictures.
        draw: ntdm.reports.diagnostics.draw_viewpoints, handed in because stages do not know the reports.

    Raises:
        ValueError: a folder without a cache file, two files of one key, whose pictures have one place; what
            :func:`survey` refuses.
    """
    paths: dict[Path, None] = {}  # each once
    for cache in caches:
        inside = [cache] if cache.is_file() else sorted(cache.rglob("[!.]*.h5"))
        if not inside:
            raise ValueError(f"no cache file (.h5) in {cache}; `ntdm prep-data` makes them")
        paths |= dict.fromkeys(inside)
    files: dict[str, Path] = {}
    for path in paths:
        key = _key(path)
        if key in files:
            raise ValueError(f"{files[key]} and {path} are both {key}: give each an --out of its own")
        files[key] = path
    surveys = []
    for path in track(list(paths), "inspect"):
        summary = survey(path, out)
        with atomic_path(out / f"{summary.key}_viewpoints.png") as part:
            title = f"{summary.key}: {len(summary.viewpoint)} samples"
            draw(title, summary.viewpoint, summary.samples_by_cad(), summary.dropped, part)
        surveys.append(summary)
    return table(surveys)


def _key(path: Path) -> str:
    with CacheFile(path) as file:
        return f"{file.dataset}/{file.split}/{file.category}"


def survey(path: Path, out: Path) -> Survey:
    """Read a cache file and write its contact sheet to `<out>/<dataset>/<split>/<category>.png`.

    Raises:
        ValueError: not a cache file (see CacheFile).
    """
    with CacheFile(path) as file:
        key, cads = f"{file.dataset}/{file.split}/{file.category}", file.cads()
        viewpoint, cad_index = file["viewpoint"], file["cad_index"]
        sheet, least = _sheet(file, cads, out / f"{key}.png") if len(file) else (None, None)
        return Survey(
            key=key, image_size=file.image_size, viewpoint=viewpoint, cad_index=cad_index, cads=tuple(cads),
            dropped=file.dropped, least_iou=least, sheet=sheet,
        )  # fmt: skip


def table(surveys: Sequence[Survey]) -> str:
    """The surveys as text: a line a file (5th, 50th and 95th percentiles of the viewpoints), CADs, losses."""
    width = max(4, *(len(entry.key) for entry in surveys))
    head = (
        f"{'file':{width}}  samples     H x W  {'elevation (deg)':>16}  {'theta (deg)':>16}  {'distance':>18}"
    )
    lines = [f"{head}  mask = CAD"]
    for entry in surveys:
        size = "{} x {}".format(*entry.image_size)
        line = f"{entry.key:{width}}  {len(entry.viewpoint):7d}  {size:>9}"
        if len(entry.viewpoint):
            low, middle, high = np.percentile(entry.viewpoint, (5, 50, 95), axis=0)
            for column in (1, 2):
                angles = (f"{round(math.degrees(values[column])):4d}" for values in (low, middle, high))
                line += f"  {'  '.join(angles):>16}"
            line += f"  {low[3]:6.2f}{middle[3]:6.2f}{high[3]:6.2f}"
            # Cut, not rounded: 1.000 stands for identical masks only.
            iou_text = (
                "no CAD" if entry.least_iou is None else f"IoU >= {int(1000 * entry.least_iou) / 1000:.3f}"
            )
            line += f"  {iou_text}"
        lines.append(line)
    lines += ["", f"{'file':{width}}  samples by CAD"]
    for entry in surveys:
        counts = ", ".join(f"{label}: {count}" for label, count in entry.samples_by_cad().items())
        lines.append(f"{entry.key:{width}}  {counts}")
    lines += ["", f"{'file':{width}}  dropped  reason"]
    for entry in surveys:
        reasons = sorted(entry.dropped.items()) or [("", 0)]
        lines += [f"{entry.key:{width}}  {n:7d}  {reason or 'nothing was dropped'}" for reason, n in reasons]
    return "\n".join(lines)


def _cad_label(cad_index: int) -> str:
    return "none" if cad_index < 0 else f"{cad_index + 1:02d}"


def _sheet(file: CacheFile, cads: Cads, out: Path) -> tuple[Path, float | None]:
    """Write the contact sheet; returns its path and the least IoU of a stored mask with its CAD."""
    viewpoints, cad_index, names = file["viewpoint"], file["cad_index"], file["name"]
    # Even steps through the samples in order of azimuth: all views are seen, rare ones too.
    order = np.argsort(viewpoints[:, 0], kind="stable")
    chosen = pictures.even_steps(order, SHEET_ROWS)
    occluders = "occluder_mask" in file
    rows, captions, agreement = [], [], []
    for i in map(int, chosen):
        amodal, visible = (file.read(name, i) for name in ("amodal_mask", "visible_mask"))
        masks = pictures.mask_picture(amodal, visible)
        if occluders:
            masks[(file.read("occluder_mask", i) != 0) & (amodal == 0)] = OCCLUDER_COLOUR
        cad = cads.get(int(cad_index[i]))
        rows.append([file.read("images", i), _annotated(file, i, cad), masks])
        if cad is not None:
            viewpoint, centre = file.read("viewpoint", i), file.read("principal_point", i)
            projected = amodal_mask(cad, viewpoint, float(file.read("focal", i)), centre, file.image_size)
            agreement.append(float(iou(projected, amodal)))
        azimuth, elevation, theta = (round(math.degrees(angle)) for angle in viewpoints[i, :3])
        azimuth %= 360  # which rounding can reach
        captions.append(
            f"{names[i]}, CAD {_cad_label(int(cad_index[i]))}\n"
            f"azimuth {azimuth}°, elevation {elevation}°, theta {theta}°, distance {viewpoints[i, 3]:.2f}"
        )
    sheet = pictures.contact_sheet(rows, captions, HEADINGS, tile=TILE, across=2)
    colours = [*LEGEND, ("occluder beside it", OCCLUDER_COLOUR)] if occluders else LEGEND
    with atomic_path(out) as part:
        Image.fromarray(np.concatenate([pictures.legend(colours, sheet.shape[1]), sheet])).save(part)
    return out, min(agreement) if agreement else None


def _annotated(file: CacheFile, index: int, cad: Cad | None) -> pictures.Picture:
    """The crop at the tile's size, with the outline of its CAD and its box: lines finer than crop pixels."""
    height, width = file.image_size
    zoom = TILE / max(height, width)
    photo = Image.fromarray(file.read("images", index)).resize((round(zoom * width), round(zoom * height)))
    if cad is not None:
        photo = Image.fromarray(pictures.outline(np.asarray(photo), _project(file, index, cad, zoom)))
    # Pillow draws no line at 1e308; one this far out is not seen.
    corners = zoom * np.clip(file.read("bbox", index), -1e5, 1e5).reshape(2, 2)
    (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()  # an annotated box may be turned
    draw = ImageDraw.Draw(photo)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0))
    draw.rectangle((x0, y0, x1, y1), outline=BOX_COLOUR)
    return np.asarray(photo)


def _project(file: CacheFile, index: int, cad: Cad, zoom: float) -> np.ndarray:
    """Where the CAD covers the crop enlarged `zoom` times: bool [zoom H, zoom W]."""
    height, width = file.image_size
    vertices, faces = torch.from_numpy(cad[0]).double(), torch.from_numpy(cad[1]).long()
    vertices_cam = cam_from_obj(vertices, torch.from_numpy(file.read("viewpoint", index)))
    focal, point = (torch.as_tensor(file.read(name, index)) for name in ("focal", "principal_point"))
    camera = Pinhole(focal, point, file.image_size).scaled(zoom)
    # The enlarged photo is rounded, not cut.
    camera = camera._replace(size=(round(zoom * height), round(zoom * width)))
    return coverage(vertices_cam, faces, *camera).numpy()
