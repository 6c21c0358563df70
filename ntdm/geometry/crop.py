"""From a photo to its object-centred crop: one affine map, one resampling, and the camera that goes with it.

NeMo's protocol shows every object as if it stood at distance 5: the photo is scaled by r = distance / 5 (and
here by the output scale s) about the projection of the object's origin, which becomes the crop's centre. A
scaling about the principal point is exactly a change of focal length, so the crop's camera is exact: distance
as annotated, focal 3000 r s, principal point (W/2, H/2).

The map takes photo pixels to crop pixels directly: an object annotated at distance 100 is enlarged 20-fold
without the enlarged photo ever being built.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ntdm.config.protocol import NOMINAL_DISTANCE, PASCAL3D_FOCAL_PX

# NeMo's rule: at and below this (r = 0.001) the annotated distance is no distance, the box sets it instead.
DEGENERATE_DISTANCE = 1e-3 * NOMINAL_DISTANCE
WINDOW = 6_000_000  # numbers of a photo that are resampled at a time: 24 MB as float32


@dataclass(frozen=True)
class CropMap:
    """The affine map of one crop: crop_xy = (photo_xy - centre) * zoom + (W/2, H/2), corner-origin frames.

    Attributes:
        size: (H, W) of the crop.
        zoom: crop pixels a photo pixel.
        centre: photo position (x, y) that lands on the crop's centre.
    """

    size: tuple[int, int]
    zoom: float
    centre: tuple[float, float]

    @property
    def principal_point(self) -> np.ndarray:
        """(x, y) of the crop's centre, f64 [2]."""
        height, width = self.size
        return np.array([width / 2, height / 2])

    def crop_from_photo(self, xy: np.ndarray) -> np.ndarray:
        """Photo positions [..., 2] in the crop."""
        return (np.asarray(xy, np.float64) - self.centre) * self.zoom + self.principal_point

    def resample(self, photo: np.ndarray, window: int = WINDOW) -> np.ndarray:
        """The crop of a photo.

        Triangle filter, as wide as a crop pixel where the photo is shrunk (no aliasing) and as a photo pixel
        (bilinear) where it is enlarged. A crop pixel whose centre lies outside the photo is 0.

        Args:
            photo: [h, w] or [h, w, C], any real type.
            window: numbers of the photo that are resampled at a time.

        Returns:
            float32 [H, W] or [H, W, C].
        """
        height, width = self.size
        rows = _weights(height, photo.shape[0], self.zoom, self.centre[1])
        columns = _weights(width, photo.shape[1], self.zoom, self.centre[0])
        if not (rows.nnz and columns.nnz):
            return np.zeros((height, width, *photo.shape[2:]), np.float32)
        top, bottom = rows.indices.min(), rows.indices.max() + 1
        left, right = columns.indices.min(), columns.indices.max() + 1
        # Along x first: its transposes then move a window of the photo, not the (often larger) crop. A large
        # photo goes in strips, whose sums add up.
        channels = photo[0, 0].size
        strip = max(1, window // ((right - left) * channels))
        crop = np.zeros((height, width * channels), np.float32)
        for start in range(top, bottom, strip):
            stop = min(start + strip, bottom)
            part = photo[start:stop, left:right].swapaxes(0, 1).astype(np.float32, order="C")
            wide = columns[:, left:right] @ part.reshape(right - left, -1)  # [W, h * C]
            wide = wide.reshape(width, stop - start, channels).swapaxes(0, 1)
            crop += rows[:, start:stop] @ wide.reshape(stop - start, -1)  # [H, W * C]
        return crop.reshape(height, width, *photo.shape[2:])


def box_distance(size: tuple[int, int], scale: float, focal_px: float, bbox: np.ndarray) -> float:
    """The distance at which the crop shows a box as large as fits, for annotations of no real distance.

    Args:
        size: (H, W) of the crop.
        scale: s, as for :func:`crop_map`.
        focal_px: focal * viewport of the annotation, photo pixels.
        bbox: [4] x0, y0, x1, y1 in the photo.

    Returns:
        CAD units.
    """
    sides = np.maximum(np.abs(bbox[2:] - bbox[:2]), 1.0)
    zoom = float(min(size[1] / sides[0], size[0] / sides[1]))
    return NOMINAL_DISTANCE * zoom * focal_px / (scale * PASCAL3D_FOCAL_PX)


def crop_map(
    size: tuple[int, int],
    scale: float,
    distance: float,
    focal_px: float,
    principal_point: np.ndarray,
) -> CropMap:
    """The crop of one annotated object.

    Args:
        size: (H, W) of the crop.
        scale: s, the output scale; the crop's nominal focal length is 3000 s.
        distance: annotated distance, CAD units, > 0.
        focal_px: focal * viewport of the annotation, photo pixels, > 0.
        principal_point: [2] x, y in the photo, corner-origin.
    """
    assert distance > 0 and focal_px > 0
    # 3000 / focal_px is 1 for every PASCAL3D+ record; ObjectNet3D's viewport is 2000.
    zoom = scale * distance / NOMINAL_DISTANCE * PASCAL3D_FOCAL_PX / focal_px
    return CropMap(size, zoom, (float(principal_point[0]), float(principal_point[1])))


def _weights(count: int, length: int, zoom: float, centre: float) -> sparse.csr_matrix:
    """Resampling of one axis: [count, length], each row sums to 1, or is empty outside the photo."""
    at = (np.arange(count) + 0.5 - count / 2) / zoom + centre
    rows = np.flatnonzero((at >= 0) & (at < length))
    reach = max(1.0, 1.0 / zoom)
    taps = int(min(np.ceil(2 * reach) + 1, length))
    first = np.clip(np.floor(at[rows] - reach), 0, length - taps).astype(np.int64)
    columns = first[:, None] + np.arange(taps)
    weights = np.maximum(0.0, 1.0 - np.abs(columns + 0.5 - at[rows, None]) / reach)
    weights /= weights.sum(1, keepdims=True)
    used = weights > 0
    starts = np.zeros(count + 1, np.int64)
    starts[rows + 1] = used.sum(1)
    matrix = (weights[used].astype(np.float32), columns[used], np.cumsum(starts))
    return sparse.csr_matrix(matrix, shape=(count, length))
