"""The momentum update of neural textures, in place: what training does to them after every step.

For each visible texel with feature f and bin weights alpha, and each view bin b (section 3.3 of arXiv
2306.00118),

    seen before:              theta_b <- normalise(theta_b + (1 - m) alpha_b (f - theta_b))
    not, and alpha_b > first: theta_b <- f, and the bin is marked seen

Without the second line a rarely seen bin would need dozens of visits to mean anything. No derivative:
textures move by momentum, not by gradient. The operator is registered as one that changes its arguments, so
that torch.compile keeps it and its order. The kernels are cuda/texture_update.cpp and, on CUDA,
cuda/texture_update_cuda.cu.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.ops import checks, kernels
from ntdm.ops.registration import register


def texture_update_reference(
    theta: Tensor,  # [T, b, d]
    seen: Tensor,  # [T, b]
    texels: Tensor,  # [N]
    features: Tensor,  # [N, d]
    alpha: Tensor,  # [N, b]
    momentum: float,
    first_visit: float,
) -> None:
    """The torch twin of :func:`texture_update`: same arguments, plain, any device."""
    old, was_seen = theta[texels], seen[texels][..., None]
    moved = F.normalize(old + ((1 - momentum) * alpha)[..., None] * (features[:, None] - old), dim=-1)
    first = (alpha > first_visit)[..., None] & (was_seen == 0)
    theta[texels] = torch.where(first, features[:, None], torch.where(was_seen > 0, moved, old))
    seen[texels] = torch.maximum(seen[texels], first[..., 0].to(seen.dtype))


def texture_update(
    theta: Tensor,  # [T, b, d] float32 or float64, contiguous, changed in place
    seen: Tensor,  # [T, b] 0 or 1, changed in place
    texels: Tensor,  # [N] int64, distinct
    features: Tensor,  # [N, d]
    alpha: Tensor,  # [N, b]
    momentum: float,
    first_visit: float,
) -> None:
    """Move the texels of one texture towards the features seen on them.

    Args:
        theta: [T, b, d] unit features of T texels and b view bins.
        seen: [T, b] 1 where training has visited.
        texels: [N] distinct texel numbers in [0, T).
        features: [N, d] unit features.
        alpha: [N, b] bin weights.
        momentum: m, 0.9 in the paper.
        first_visit: the least alpha that counts as a first visit.

    Raises:
        ValueError: shapes, dtypes or layouts that do not fit, or a texel out of range.
    """
    op = "texture_update"
    checks.check_device(op, "theta", theta)
    if theta.dtype not in checks.FLOATS or theta.ndim != 3:
        raise ValueError(
            f"{op}: theta is {theta.dtype} {tuple(theta.shape)}: want float32 or float64 [T, b, d]"
        )
    (count, bins, d), number = theta.shape, len(features)
    checks.check_shape(op, "texels", texels, (number,), "features")
    checks.check_type(op, "texels", texels, torch.int64, theta.device, "rows of theta")
    for name, tensor, shape, of in (
        ("seen", seen, (count, bins), "theta"),
        ("features", features, (number, d), "theta"),
        ("alpha", alpha, (number, bins), "features and theta"),
    ):
        checks.check_shape(op, name, tensor, shape, of)
        checks.check_type(op, name, tensor, theta.dtype, theta.device, "theta")
    for name, tensor in (("theta", theta), ("seen", seen)):
        if not tensor.is_contiguous():
            raise ValueError(
                f"{op}: {name} has strides {tensor.stride()}: it changes in place, want contiguous"
            )
    torch.ops.ntdm.texture_update(theta, seen, texels, features, alpha, 1 - momentum, float(first_visit))


def _update(
    theta: Tensor,
    seen: Tensor,
    texels: Tensor,
    features: Tensor,
    alpha: Tensor,
    rate: float,
    first_visit: float,
) -> None:
    if len(texels):
        low, high = (int(value) for value in texels.aminmax())
        if low < 0 or high >= len(theta):
            raise ValueError(f"texture_update: texels run from {low} to {high}: want 0 to {len(theta) - 1}")
    inputs = [t.contiguous() for t in (texels, features, alpha)]
    kernels.call("texture_update", theta, seen, *inputs, len(texels), *theta.shape[1:], rate, first_visit)


def _update_fake(*_: Tensor | float) -> None:
    return None


register(
    "texture_update(Tensor(a!) theta, Tensor(b!) seen, Tensor texels, Tensor features, Tensor alpha,"
    " float rate, float first_visit) -> ()",
    _update,
    _update_fake,
)
