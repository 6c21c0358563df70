"""Viewpoint angles as classes: each of azimuth, elevation and in-plane rotation in equal bins."""

import math

import torch
from torch import Tensor

# lowest angle and extent of the range that the bins divide: azimuth, elevation, theta
RANGES = ((0.0, 2 * math.pi), (-math.pi / 2, math.pi), (-math.pi, 2 * math.pi))


def to_bins(viewpoint: Tensor, count: int) -> Tensor:
    """Bin numbers [B, 3] in 0..count-1 of viewpoints [B, 3] or [B, 4], radians."""
    columns = [
        (((viewpoint[:, k] - low) % extent if k != 1 else viewpoint[:, k] - low) / extent * count).long()
        for k, (low, extent) in enumerate(RANGES)
    ]
    return torch.stack(columns, 1).clamp(0, count - 1)


def likeliest_angles(logits: Tensor) -> Tensor:
    """Centres [B, 3] (float64, radians) of the likeliest bins of logits [B, 3, bins]."""
    best = logits.argmax(-1).double() + 0.5
    low, extent = torch.tensor(RANGES, dtype=torch.float64, device=best.device).unbind(1)
    return low + best / logits.shape[-1] * extent
