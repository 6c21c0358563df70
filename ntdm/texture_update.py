"""The momentum update of neural textures, in place: what training does to them after every step.

For each visible texel with feature f and bin weights alpha, and each view bin b (method: section 3.2),

    seen before:              theta_b <- normalise(theta_b + (1 - m) alpha_b (f - theta_b))
    not, and alpha_b > first: theta_b <- f, and the bin is marked seen

Without the second line a rarely seen bin would need dozens of visits to mean anything. No derivative:
textures move by momentum, not by gradient. The kernel is cuda/texture_update.cpp.
"""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm import native

_KERNELS = {torch.float32: "ntdm_texture_update_f32", torch.float64: "ntdm_texture_update_f64"}


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
        theta: unit features of T texels and b view bins. seen: 1 where training has visited.
        texels: [N] distinct texel numbers in [0, T).
        features: [N, d] unit features. alpha: [N, b] bin weights.
        momentum: m, 0.9 in the paper. first_visit: the least alpha that counts as a first visit.

    Raises:
        ValueError: shapes, dtypes or layouts that do not fit, or a texel out of range.
    """
    (count, bins, d), number = theta.shape, len(texels)
    if theta.dtype not in _KERNELS or theta.device.type != "cpu" or not theta.is_contiguous():
        raise ValueError(
            f"texture_update: theta is {theta.dtype} on {theta.device}: want contiguous CPU floats"
        )
    for name, tensor, shape in (
        ("seen", seen, (count, bins)), ("features", features, (number, d)), ("alpha", alpha, (number, bins)),
    ):  # fmt: skip
        if tuple(tensor.shape) != shape or tensor.dtype != theta.dtype or tensor.device != theta.device:
            found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise ValueError(
                f"texture_update: {name} is {found}: want {theta.dtype} {shape} on {theta.device}"
            )
    if texels.dtype != torch.int64 or texels.ndim != 1 or not seen.is_contiguous():
        raise ValueError(f"texture_update: texels is {texels.dtype} {tuple(texels.shape)}: want int64 [N]")
    if number and not (int(texels.min()) >= 0 and int(texels.max()) < count):
        raise ValueError(f"texture_update: texels run to {int(texels.max())}: want 0 to {count - 1}")
    inputs = [tensor.contiguous() for tensor in (texels, features, alpha)]
    getattr(native.library(), _KERNELS[theta.dtype])(
        *(native.pointer(tensor) for tensor in (theta, seen, *inputs)),
        *(ctypes.c_int64(size) for size in (number, bins, d)),
        *(ctypes.c_double(value) for value in (1 - momentum, first_visit)),
        ctypes.c_int(torch.get_num_threads()),
    )
