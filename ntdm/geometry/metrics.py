"""Metrics: what "right" means, as pure numpy functions.

All angles are radians unless a name ends in ``_deg``. No symmetry handling anywhere, as in every published
number on PASCAL3D+ and OOD-CV.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

FAILED_ROTATION_ERROR = math.pi  # what a failed prediction counts as
PI_6 = math.pi / 6
PI_18 = math.pi / 18

Array = NDArray[np.float64]


def rotation_error(R_pred: ArrayLike, R_true: ArrayLike) -> Array:
    """Geodesic distance arccos((tr(R_predᵀ R_true) - 1) / 2) between rotations.

    Computed as atan2(sin, cos) with the sine from the antisymmetric part: arccos alone loses half its digits
    near 0 and near pi.

    Args:
        R_pred: [..., 3, 3].
        R_true: [..., 3, 3], broadcastable against R_pred.

    Returns:
        [...] radians in [0, pi]; pi where a prediction is not finite (a failed prediction).

    Raises:
        ValueError: shapes that do not end in 3 x 3, or a truth that is not finite.
    """
    R_pred, R_true = np.asarray(R_pred, dtype=np.float64), np.asarray(R_true, dtype=np.float64)
    for name, R in (("R_pred", R_pred), ("R_true", R_true)):
        if R.shape[-2:] != (3, 3):
            raise ValueError(f"{name} has shape {R.shape}: want [..., 3, 3]")
    if not np.isfinite(R_true).all():
        raise ValueError(
            "R_true holds numbers that are not finite: the annotation is broken, not the prediction"
        )
    failed = ~np.isfinite(R_pred).all((-2, -1))
    relative = np.swapaxes(np.where(failed[..., None, None], 0.0, R_pred), -1, -2) @ R_true
    cosine = (np.trace(relative, axis1=-2, axis2=-1) - 1) / 2
    axis = np.stack([relative[..., i, j] - relative[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    error = np.arctan2(np.linalg.norm(axis, axis=-1) / 2, cosine)
    return np.where(failed, FAILED_ROTATION_ERROR, error)


def accuracy(errors: ArrayLike, threshold: float) -> float:
    """Share of errors strictly below `threshold`, in percent; NaN for no errors at all.

    Args:
        errors: [N] radians, every sample present (failed ones as pi).
        threshold: radians, e.g. ``PI_6``.
    """
    errors = _complete(errors, "errors")
    return float(100 * (errors < threshold).mean()) if errors.size else math.nan


def median_error_deg(errors: ArrayLike) -> float:
    """Median of errors [N] (radians), in degrees; NaN for no errors at all."""
    errors = _complete(errors, "errors")
    return float(np.degrees(np.median(errors))) if errors.size else math.nan


def iou(a: ArrayLike, b: ArrayLike) -> Array:
    """Intersection over union of masks, one number an image; 1 when both are empty.

    Args:
        a: [..., H, W]; non-zero is inside.
        b: [..., H, W], the same shape.

    Returns:
        [...] in [0, 1].
    """
    inside_a, inside_b = np.asarray(a) != 0, np.asarray(b) != 0
    if inside_a.shape != inside_b.shape or inside_a.ndim < 2:
        shapes = f"{inside_a.shape} and {inside_b.shape}"
        raise ValueError(f"masks have shapes {shapes}: want two equal shapes [..., H, W]")
    intersection = (inside_a & inside_b).sum((-2, -1))
    union = (inside_a | inside_b).sum((-2, -1))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def chamfer_l1(a_to_b: ArrayLike, b_to_a: ArrayLike) -> float:
    """Chamfer-L1: the mean of the two mean nearest distances.

    Args:
        a_to_b: [P] unsigned distances from points of surface a to surface b.
        b_to_a: [Q] unsigned distances from points of surface b to surface a, same unit.
    """
    return float((_complete(a_to_b, "a_to_b").mean() + _complete(b_to_a, "b_to_a").mean()) / 2)


def f_score(a_to_b: ArrayLike, b_to_a: ArrayLike, threshold: float) -> float:
    """Harmonic mean, in [0, 1], of the shares of both surfaces' points nearer than `threshold` to the other.

    Args:
        a_to_b: [P] unsigned distances from points of the fitted surface to the true one (precision).
        b_to_a: [Q] the other way (recall).
        threshold: same unit; the field uses 1 % of the diagonal.
    """
    precision = (_complete(a_to_b, "a_to_b") < threshold).mean()
    recall = (_complete(b_to_a, "b_to_a") < threshold).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _complete(values: ArrayLike, name: str) -> Array:
    values = np.asarray(values, dtype=np.float64)
    # A NaN would silently count as wrong in one metric and poison another.
    if np.isnan(values).any():
        raise ValueError(
            f"{name} has {np.isnan(values).sum()} missing values: write a failed prediction as pi"
        )
    return values
