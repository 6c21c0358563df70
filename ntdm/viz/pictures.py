"""Pictures for people: the predicted mesh over its photo, masks, contact sheets. numpy and Pillow only."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Of masks and meshes. They differ in lightness too, so that they survive colour blindness and grey printers.
VISIBLE_COLOUR = (0, 114, 220)
OCCLUDED_COLOUR = (240, 140, 0)
UNSEEN_COLOUR = (165, 165, 165)
EMPTY_COLOUR = (28, 28, 32)

_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_LIGHT = np.array([-0.35, 0.45, 0.82])  # towards the light in the camera's frame: upper left, in front
_AMBIENT = 0.3
_TINT = 0.6  # share of the mesh's colour over the photo's

Picture = NDArray[np.uint8]


def shade(normals: NDArray[np.floating]) -> NDArray[np.float64]:
    """Brightness of a matt surface under a light beside the camera.

    Args:
        normals: [..., 3] in the camera's frame (x right, y up, z back), any length; zeros where there is no
            surface. Two-sided: a normal that points away is turned round.

    Returns:
        [...] in [0, 1]; 0 where there is no surface.
    """
    normals = np.asarray(normals, dtype=np.float64)
    if normals.shape[-1:] != (3,):
        raise ValueError(f"normals have shape {normals.shape}: want [..., 3]")
    length = np.linalg.norm(normals, axis=-1)
    facing = np.where(normals[..., 2] < 0, -1.0, 1.0)
    lambert = facing * (normals @ (_LIGHT / np.linalg.norm(_LIGHT))) / np.maximum(length, 1e-12)
    return np.where(length > 0, _AMBIENT + (1 - _AMBIENT) * lambert.clip(0, 1), 0.0)


def overlay(
    image: Picture,
    amodal: NDArray[np.generic],
    visible: NDArray[np.generic],
    shading: NDArray[np.floating] | None = None,
) -> Picture:
    """The predicted mesh tinted over the photo: its visible part blue, its occluded part orange, outlined.

    Args:
        image: u8 [H, W, 3].
        amodal: [H, W], non-zero inside the projected mesh.
        visible: [H, W], non-zero where the object is seen; what lies outside amodal is ignored.
        shading: [H, W] brightness in [0, 1] of the mesh (see :func:`shade`); None: flat.

    Returns:
        u8 [H, W, 3].
    """
    _check_photo(image)
    inside, seen = (_mask(m, image.shape[:2], n) for m, n in ((amodal, "amodal"), (visible, "visible")))
    colour = np.where(seen[..., None], np.array(VISIBLE_COLOUR), np.array(OCCLUDED_COLOUR)).astype(np.float64)
    if shading is not None:
        if shading.shape != inside.shape:
            raise ValueError(f"shading has shape {shading.shape}, the image {inside.shape} (H, W)")
        light = np.clip(np.asarray(shading, dtype=np.float64), 0, 1)
        # Beyond 1 the colour goes towards white, which keeps the relief in saturated colours.
        colour = np.clip(
            colour * (0.25 + 1.05 * light[..., None]) + 60 * (light[..., None] - 0.6).clip(0), 0, 255
        )
    out = np.where(inside[..., None], (1 - _TINT) * image + _TINT * colour, image)
    return outline(np.rint(out).astype(np.uint8), inside)


def outline(image: Picture, mask: NDArray[np.generic]) -> Picture:
    """The edge of a mask [H, W] on a photo u8 [H, W, 3]; the photo stays as it is elsewhere.

    A light line inside and a dark one outside: one of the two stands out on any photo.
    """
    _check_photo(image)
    inside = _mask(mask, image.shape[:2], "mask")
    width = max(1, round(min(inside.shape) / 200))
    out = image.copy()
    out[inside & _grow(~inside, width)] = 255
    out[~inside & _grow(inside, width)] = 0
    return out


def mask_picture(amodal: NDArray[np.generic], visible: NDArray[np.generic]) -> Picture:
    """Masks [H, W] as one u8 [H, W, 3] picture: visible blue, occluded orange, the rest dark."""
    inside = _mask(amodal, np.shape(amodal), "amodal")
    seen = _mask(visible, inside.shape, "visible")
    out = np.full((*inside.shape, 3), EMPTY_COLOUR, np.uint8)
    out[inside] = OCCLUDED_COLOUR
    out[inside & seen] = VISIBLE_COLOUR
    return out


def describe(
    name: str,
    category: str,
    predicted: str | None,
    rotation_error: float | None,
    amodal_iou: float | None,
) -> str:
    """A caption of two lines: the sample, then predicted class, pose error in degrees, IoU in percent.

    Args:
        name: of the sample.
        category: the true one.
        predicted: the chosen category; None where none was.
        rotation_error: radians; None where not measured.
        amodal_iou: 0 to 1; None where not measured.
    """
    parts = []
    if predicted is not None:
        parts.append(f"class {predicted}" + ("" if predicted == category else f" (is {category})"))
    if rotation_error is not None:
        parts.append(f"pose error {math.degrees(rotation_error):.1f}°")
    if amodal_iou is not None:
        parts.append(f"IoU {100 * amodal_iou:.1f} %")
    return f"{name}\n{', '.join(parts)}"


def even_steps(order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first, the last and even steps between them, of `order` [N]: min(N, count) of its numbers."""
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.generic]]],
    captions: Sequence[str] | None = None,
    headings: Sequence[str] = (),
    tile: int = 224,
    across: int = 1,
) -> Picture:
    """Rows of pictures with a caption under each row.

    Args:
        rows: pictures u8 [h, w, 3], or [h, w] (bool: black and white). Sizes may differ: each is
            fitted into a tile, its sides in proportion.
        captions: one text a row, lines separated by newlines; a line that is too long ends in an ellipsis.
        headings: one text a column, on top.
        tile: longer side of a tile, pixels; all tiles are as wide and high as some picture needs.
        across: how many rows stand side by side.

    Returns:
        u8 [H, W, 3].
    """
    if not rows or not any(len(row) for row in rows):
        raise ValueError("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{len(captions)} captions for {len(rows)} rows")
    shapes = [np.shape(picture)[:2] for row in rows for picture in row]
    wide, high = (max(round(tile * shape[axis] / max(shape)) for shape in shapes) for axis in (1, 0))
    gap, size = max(4, tile // 28), max(11, tile // 15)
    font = ImageFont.load_default(size)
    line = round(1.3 * size)
    texts = [caption.split("\n") for caption in captions or [""] * len(rows)]
    caption_height = line * max(map(len, texts)) if captions is not None else 0
    columns = max(len(row) for row in rows)
    group = columns * (wide + gap) - gap
    step_x, step_y = group + 3 * gap, high + caption_height + 2 * gap
    across = min(across, len(rows))
    top = gap + (line if headings else 0)
    deep = -(-len(rows) // across)
    sheet = Image.new("RGB", (across * step_x - gap, top + deep * step_y), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i in range(across if headings else 0):
        for j, heading in enumerate(headings):
            x = gap + i * step_x + j * (wide + gap)
            draw.text((x, gap // 2), _fitted(heading, font, wide), _INK, font)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        x0, y0 = gap + (i % across) * step_x, top + (i // across) * step_y
        for j, picture in enumerate(row):
            sheet.paste(_tile(picture, wide, high), (x0 + j * (wide + gap), y0))
        for k, words in enumerate(text):
            draw.text((x0, y0 + high + gap // 2 + k * line), _fitted(words, font, group), _INK, font)
    return np.asarray(sheet)


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, size: int = 17) -> Picture:
    """One strip u8 [h, width, 3] of coloured squares with their names; what does not fit is cut off."""
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (width, 2 * size), _PAPER)
    draw, x = ImageDraw.Draw(strip), size // 2
    for name, colour in entries:
        draw.rectangle((x, size // 2, x + size, size // 2 + size), colour, outline=_INK)
        draw.text((x + round(1.4 * size), size // 2), name, _INK, font)
        x += round(3.4 * size + font.getlength(name))
    return np.asarray(strip)


def _tile(picture: NDArray[np.generic], wide: int, high: int) -> Image.Image:
    array = np.asarray(picture)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(
            f"a picture is {array.dtype} {array.shape}: want u8 [h, w, 3], u8 [h, w] or bool [h, w]"
        )
    image = Image.fromarray(array).convert("RGB")
    scale = min(wide / image.width, high / image.height)
    width, height = (max(1, round(scale * n)) for n in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    out = Image.new("RGB", (wide, high), (235, 235, 235))
    out.paste(image, ((wide - width) // 2, (high - height) // 2))
    return out


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _check_photo(image: Picture) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}: want u8 [H, W, 3]")


def _mask(mask: NDArray[np.generic], size: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.asarray(mask) != 0
    if inside.ndim != 2 or inside.shape != tuple(size):
        raise ValueError(f"{name} has shape {inside.shape}, want {tuple(size)} (H, W)")
    return inside


def _grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask and every pixel within `steps` 4-neighbour steps of it."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = (
            mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )  # fmt: skip
    return mask
