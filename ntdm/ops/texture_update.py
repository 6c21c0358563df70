"""The momentum update of neural textures, in place: what training does to them after every step.

For each visible texel with feature f and bin weights alpha, and each view bin b (method: section 3.2),

    seen before:              theta_b <- normalise(theta_b + (1 - m) alpha_b (f - theta_b))
    not, and alpha_b > first: theta_b <- f, and the bin is marked seen

Without the second line a rarely seen bin would need dozens of visits to mean anything. No derivative:
textures move by momentum, not by gradient. The kernels are cuda/texture_update.cpp and, on CUDA,
cuda/texture_update_cuda.cu.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.ops import kernels
from ntdm.ops.checks import FLOATS


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
        theta: unit features of T texels and b view bins.
        seen: 1 where training has visited.
        texels: [N] distinct texel numbers in [0, T).
        features: [N, d] unit features.
        alpha: [N, b] bin weights.
        momentum: m, 0.9 in the paper.
        first_visit: the least alpha that counts as a first visit.

    Raises:
        ValueError: shapes, dtypes or layouts that do not fit, or a texel out of range.
    """
    (count, bins, d), number = theta.shape, len(texels)
    device = theta.device
    if theta.dtype not in FLOATS or device.type not in ("cpu", "cuda") or not theta.is_contiguous():
        raise ValueError(
            f"texture_update: theta is {theta.dtype} on {device}: want contiguous floats on the CPU or CUDA"
        )
    for name, tensor, shape in (
        ("seen", seen, (count, bins)), ("features", features, (number, d)), ("alpha", alpha, (number, bins)),
    ):  # fmt: skip
        if tuple(tensor.shape) != shape or tensor.dtype != theta.dtype or tensor.device != device:
            found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise ValueError(f"texture_update: {name} is {found}: want {theta.dtype} {shape} on {device}")
    int64 = texels.dtype == torch.int64 and texels.device == device
    if not int64 or texels.ndim != 1 or not seen.is_contiguous():
        raise ValueError(
            f"texture_update: texels is {texels.dtype} {tuple(texels.shape)} on {texels.device}: "
            f"want int64 [N] on {device}, and seen contiguous"
        )
    if number and not (int(texels.min()) >= 0 and int(texels.max()) < count):
        raise ValueError(f"texture_update: texels run to {int(texels.max())}: want 0 to {count - 1}")
    tensors = [theta, seen, *(tensor.contiguous() for tensor in (texels, features, alpha))]
    kernels.call("texture_update", *tensors, number, bins, d, 1 - momentum, float(first_visit))
