"""The rasterizer's Kaolin backend (DIB-R, CUDA only): which face a pixel shows, and the soft mask.

Written against Kaolin 0.18, whose conventions are: image coordinates in [-1, 1] along both axes, y up; the
largest z wins; features interpolated affinely in the image; no near plane; no barycentrics come out. So it is
given 1 / depth as z, which is affine in the image and orders faces as depth does, and only the face index is
taken: weights and depth are made from it here, perspective-correct and differentiable, in double.

What differs from the native operators: a centre exactly on the right or upper end of a face's box is not
covered; near-equal depths are compared as rounded by Kaolin; the soft mask takes in faces by their box, so
that corners of it beyond the reach add up to exp(-9) a face; Kaolin's own backward of the mask adds with
float atomics, in no fixed order.
"""

import functools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from ntdm.geometry import camera
from ntdm.geometry.camera_np import NEAR
from ntdm.ops.checks import check_vertex_range
from ntdm.ops.triangle import LINE_AREA, cross

Backend = Literal["auto", "native", "kaolin"]
BACKENDS = get_args(Backend)
# Beyond this, in halves of the picture, float32 products of coordinates lose the pixel: Kaolin gets double.
_FAR_OFF = 100.0
_LARGEST_LIST = 2**27  # (pixel, face) pairs for which Kaolin keeps memory at once


@functools.cache
def missing() -> str | None:
    """Why Kaolin cannot be used here, or None if it can; warns, once, of a Kaolin that does not import."""
    reason = import_failure(_mesh, "rasterize", "dibr_soft_mask")
    if reason is not None and not reason.startswith("No module named 'kaolin'"):
        warnings.warn(f"Kaolin is installed but cannot be used: {reason}", stacklevel=2)
    return reason


def import_failure(load: Callable[[], ModuleType], *names: str) -> str | None:
    """Why a module of Kaolin, which `load` imports, cannot be used here, or None if it can.

    Importing Kaolin imports warp, usd and compiled code, which fail by whatever exception: all are caught,
    and the sentence has the whole chain of them. The package index's kaolin 0.1 is a placeholder.
    """
    try:
        module = load()
    except Exception as error:
        return _chain(error)
    lacking = [name for name in names if not hasattr(module, name)]
    return f"{module.__name__} has no {lacking[0]}: want Kaolin 0.17 or later" if lacking else None


def is_chosen(op: str, backend: str, vertices_cam: Tensor) -> bool:
    """Whether an operator's call goes to Kaolin; ValueError when it is asked for and cannot."""
    if backend not in BACKENDS:
        raise ValueError(f"{op}: backend must be one of {BACKENDS}, got {backend!r}")
    if backend == "native" or (backend == "auto" and not vertices_cam.is_cuda):
        return False
    reason = missing()
    if backend == "kaolin" and reason is not None:
        raise ValueError(f"{op}: backend kaolin cannot be used here: {reason}")
    if backend == "kaolin" and not vertices_cam.is_cuda:
        raise ValueError(f"{op}: backend kaolin wants CUDA tensors, vertices_cam is on the CPU")
    return reason is None


def rasterize(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of :func:`ntdm.ops.rasterize.rasterize`'s Fragments; its arguments are checked already."""
    check_vertex_range("rasterize", faces, vertices_cam.shape[1])
    height, width = size
    with torch.no_grad():
        xy, inverse, usable = _project(vertices_cam, focal, principal_point)
        kept, corner = usable[:, faces].all(-1), xy[:, faces]
        a, b = corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0]
        valid = kept & (cross(a, b).abs() > LINE_AREA)
        face_index = faces.new_full((len(xy), height, width), -1)
        count = int(valid.sum()) if face_index.numel() else 0
        if count:
            image = _storable(_image_coordinates(corner, height, width), vertices_cam.dtype, valid)
            z = inverse[:, faces].to(image.dtype)
            drawn = None if count == valid.numel() else valid
            _, face_index = _mesh().rasterize(height, width, z, image, z[..., None], valid_faces=drawn)
    barycentric, depth = _at_pixels(vertices_cam, faces, focal, principal_point, face_index)
    return face_index, barycentric, depth, (~kept).sum(1)


def soft_mask(
    vertices_cam: Tensor,
    faces: Tensor,
    focal: Tensor,
    principal_point: Tensor,
    face_index: Tensor,
    sigma: float,
    reach: float,
) -> Tensor:
    """The field `soft` [B, H, W] of soft_silhouette.py's Silhouette, by `dibr_soft_mask`; reach in pixels."""
    batch, height, width = face_index.shape
    # Kaolin measures in [-1, 1]: only on a square canvas is that pixels. What is padded counts as inside.
    side = max(height, width)
    canvas = torch.nn.functional.pad(face_index, (0, side - width, 0, side - height))
    if canvas.numel() == 0 or len(faces) == 0:
        return (face_index >= 0).to(vertices_cam.dtype) + vertices_cam[:, :0].sum()
    xy, _, usable = _project(vertices_cam, focal, principal_point)
    kept, margin = usable[:, faces].all(-1), 2 * reach / side
    image = _image_coordinates(xy[:, faces], side, side)
    # A dropped face becomes a point that no pixel is near to.
    image = torch.where(kept[..., None, None], image, 4 + 2 * margin)
    image = _storable(image, vertices_cam.dtype, kept)
    # Kaolin keeps the first knum faces that a pixel meets: let it be all of them.
    knum = _most_faces(image.detach(), margin, canvas)
    items = max(1, _LARGEST_LIST // (side * side * knum))
    parts = [
        _mesh().dibr_soft_mask(
            part, canvas[first : first + items], (side / (2 * sigma)) ** 2, margin, knum, 1000.0
        )
        for first, part in zip(range(0, batch, items), image.split(items), strict=True)
    ]
    return torch.cat(parts)[:, :height, :width].to(vertices_cam.dtype)


def _chain(error: BaseException) -> str:
    """An exception and those that it came from, the first line of each."""
    lines = []
    link: BaseException | None = error
    while link is not None:
        first = next(iter(str(link).splitlines()), "")
        plain = isinstance(link, ImportError) and first
        lines.append(first if plain else f"{type(link).__name__}: {first}" if first else type(link).__name__)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ", from ".join(lines)


def _mesh() -> ModuleType:
    from kaolin.render import mesh

    return mesh


def _project(vertices_cam: Tensor, focal: Tensor, principal_point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, V, 2] and 1 / depth [B, V], double, and which vertices are usable [B, V]."""
    points = vertices_cam.double()
    usable = points.isfinite().all(-1) & (points[..., 2] < -NEAR)
    # Replaced before the division, so that no gradient is NaN.
    points = torch.where(usable[..., None], points, points.new_tensor([0.0, 0.0, -1.0]))
    xy, depth = camera.project(points, focal.double(), principal_point.double())
    return xy, 1 / depth, usable & (xy.abs() < 1e30).all(-1)


def _image_coordinates(xy: Tensor, height: int, width: int) -> Tensor:
    return torch.stack([2 * xy[..., 0] / width - 1, 1 - 2 * xy[..., 1] / height], -1)


def _storable(image: Tensor, dtype: torch.dtype, valid: Tensor) -> Tensor:
    """image [B, F, 3, 2] in the type that Kaolin is to compute in."""
    return image if (image.abs().amax((2, 3)) * valid > _FAR_OFF).any() else image.to(dtype)


def _at_pixels(
    vertices_cam: Tensor, faces: Tensor, focal: Tensor, principal_point: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Perspective-correct weights [B, H, W, 3] and depth [B, H, W] of the faces that pixels show.

    With M = [X0 X1 X2] and the pixel's ray r, M w = d r and sum w = 1: by Cramer's rule w_k is proportional
    to r . (X_k+1 x X_k+2), and d = det M over the sum of these.
    """
    item, row, column = (face_index >= 0).nonzero(as_tuple=True)
    corner = vertices_cam[item[:, None], faces[face_index[item, row, column]]].double()  # [P, 3, 3]
    f, centre = focal.double()[item], principal_point.double()[item]
    x, y = (column + 0.5 - centre[:, 0]) / f, -(row + 0.5 - centre[:, 1]) / f
    ray = torch.stack([x, y, -torch.ones_like(x)], -1)
    normal = torch.linalg.cross(corner.roll(-1, 1), corner.roll(-2, 1))
    weight = (normal * ray[:, None]).sum(-1)
    total = weight.sum(-1)
    depth = (corner[:, 0] * normal[:, 0]).sum(-1) / total
    shape, dtype = face_index.shape, vertices_cam.dtype
    place = (item, row, column)
    return (
        vertices_cam.new_zeros((*shape, 3)).index_put(place, (weight / total[:, None]).to(dtype)),
        vertices_cam.new_full(shape, torch.inf).index_put(place, depth.to(dtype)),
    )


def _most_faces(image: Tensor, margin: float, canvas: Tensor) -> int:
    """The most faces whose box, widened by the margin and half a pixel, holds one outside pixel's centre."""
    batch, side, _ = canvas.shape
    x, y = (image[..., 0] + 1) * side / 2, (1 - image[..., 1]) * side / 2
    reach = margin * side / 2 + 0.5

    def ends(value: Tensor) -> tuple[Tensor, Tensor]:
        low = (value.amin(-1) - reach - 0.5).ceil().clamp(0, side)
        high = (value.amax(-1) + reach - 0.5).floor().clamp(-1, side - 1) + 1
        return low.long(), torch.maximum(low, high).long()

    (left, right), (top, bottom) = ends(x), ends(y)
    item = torch.arange(batch, device=image.device)[:, None].expand_as(left)
    count = canvas.new_zeros(batch, side + 1, side + 1)  # differences, then their sums over both axes
    for rows, columns, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        count.index_put_((item, rows, columns), count.new_tensor(sign), accumulate=True)
    count = count.cumsum(1).cumsum(2)[:, :side, :side]
    return max(1, int(torch.where(canvas < 0, count, 0).max()))
