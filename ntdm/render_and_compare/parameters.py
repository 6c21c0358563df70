"""The parameters that inference optimises, a row a pose and shape: its columns by name, and its camera."""

from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.geometry.camera import Pinhole

# Columns before the K entries of the latent.
POSE_COLUMNS = 7
# The principal point moves in tenths of the crop's longer side, so that one rate of Adam serves all columns.
OFFSET_UNIT = 0.1


class Parameters(NamedTuple):
    """Views of the columns of parameter rows [B, 7 + K]; a derivative passes through them."""

    angles: Tensor  # [B, 3] azimuth, elevation, theta, radians
    log_distance: Tensor  # [B] of CAD units
    offset: Tensor  # [B, 2] of the principal point from the crop's middle, x and y, in OFFSET_UNIT
    log_scale: Tensor  # [B] log s'
    latent: Tensor  # [B, K]

    @classmethod
    def of(cls, rows: Tensor) -> "Parameters":
        """The columns of `rows` [B, 7 + K]."""
        return cls(rows[:, :3], rows[:, 3], rows[:, 4:6], rows[:, 6], rows[:, POSE_COLUMNS:])

    @property
    def viewpoint(self) -> Tensor:
        """[B, 4] azimuth, elevation, theta, distance."""
        return torch.cat([self.angles, self.log_distance[:, None].exp()], 1)

    def camera(self, focal: float, size: tuple[int, int]) -> Pinhole:
        """The camera of the crop [H, W] with this focal length, pixels, and the rows' principal points."""
        height, width = size
        middle = self.offset.new_tensor([width / 2, height / 2])
        point = middle + self.offset * (OFFSET_UNIT * max(height, width))
        return Pinhole(self.offset.new_full((len(self.offset),), focal), point, size)


def free_columns(count: int, *, distance: bool, offset: bool, scale: bool, device: torch.device) -> Tensor:
    """Which of `count` columns steps of the pose move, bool [count]: the angles, and those asked for."""
    free = torch.zeros(count, dtype=torch.bool, device=device)
    free[:3] = True
    free[3], free[4:6], free[6] = distance, offset, scale
    return free
