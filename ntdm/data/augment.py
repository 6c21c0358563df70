"""What training does to photos so that a few stand for many: drawn here, applied in ntdm/data/batch.py.

Mirroring is exact for a left-right symmetric object: its mirrored photo is one from the mirrored viewpoint.
Moving is exact for any: a photo turned about its principal point is one of a camera turned about its axis, a
magnified one is of a longer lens, a shifted one has another principal point. Colours and patches change what
is seen, not from where.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ntdm.config.stages import TrainConfig


class Augmentation(NamedTuple):
    """What is drawn for one photo."""

    mirrored: bool
    colours: tuple[Tensor, ...] = ()  # standard normal: gain [1], tint [3], offset [1], mixing [3, 3]
    patches: tuple[tuple[float, ...], ...] = ()  # of each: centre x, y, width, height, turn, corner, in 0..1
    motion: tuple[float, ...] = ()  # turn, zoom, shift x, y, in -1..1 of the config's largest


def draw_augmentation(count: int, config: TrainConfig, generator: torch.Generator) -> list[Augmentation]:
    """Draws for `count` photos. Apart from the photos, so that who needs a few of them can draw for all."""
    augmentations = []
    for _ in range(count):
        mirrored = config.mirror and bool(torch.rand((), generator=generator) < 0.5)
        colours: tuple[Tensor, ...] = ()
        if config.augment > 0:
            colours = tuple(torch.randn(shape, generator=generator) for shape in (1, 3, 1, (3, 3)))
        augmentations.append(Augmentation(mirrored, colours))
    if config.patches > 0:
        augmentations = [a._replace(patches=_draw_patches(config.patches, generator)) for a in augmentations]
    if config.turn or config.zoom or config.shift:
        motions = 2 * torch.rand(count, 4, generator=generator) - 1
        pairs = zip(augmentations, motions.tolist(), strict=True)
        augmentations = [a._replace(motion=tuple(motion)) for a, motion in pairs]
    return augmentations


def _draw_patches(share: float, generator: torch.Generator) -> tuple[tuple[float, ...], ...]:
    """Up to four patches, for a share of the photos."""
    if torch.rand((), generator=generator) >= share:
        return ()
    count = int(torch.randint(1, 5, (), generator=generator))
    return tuple(tuple(torch.rand(6, generator=generator).tolist()) for _ in range(count))


class Motion(NamedTuple):
    """How B photos are moved about their principal points."""

    turn: Tensor  # [B] radians, counter-clockwise, as theta
    zoom: Tensor  # [B] factor of the focal length
    shift: Tensor  # [B, 2] pixels

    @classmethod
    def of(
        cls, augmentations: Sequence[Augmentation], config: TrainConfig, size: tuple[int, int]
    ) -> "Motion":
        """What was drawn, for photos of `size` (H, W)."""
        turn, zoom, shift = torch.tensor([a.motion for a in augmentations]).split([1, 1, 2], 1)
        return cls(
            turn[:, 0] * math.radians(config.turn),
            (zoom[:, 0] * math.log1p(config.zoom)).exp(),
            shift * config.shift * min(size),
        )

    def sources(self, principal_point: Tensor, size: tuple[int, int]) -> Tensor:
        """Where each pixel of the moved photos comes from: [B, H, W, 2], as grid_sample takes it."""
        (height, width), point = size, principal_point[:, None, None]
        across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        pixels = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
        x, y = ((pixels - point - self.shift[:, None, None]) / self.zoom[:, None, None, None]).unbind(-1)
        # y points down: counter-clockwise takes (1, 0) to (cos, -sin), and this is the way back.
        cosine, sine = self.turn.cos()[:, None, None], self.turn.sin()[:, None, None]
        source = torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1) + point
        return 2 * source / torch.tensor([width, height]) - 1


def covered(
    size: tuple[int, int], patches: Sequence[Sequence[float]], lengths: tuple[float, float]
) -> Tensor:
    """Where patches cover a photo of `size` (H, W): bool [H, W].

    They are turned, with outlines between ellipse and rectangle: like occluders' they run in any direction.
    Lengths and widths lie between the two `lengths`, of the photo's. Of the object nothing is learned under
    them; the features around them learn not to depend on them.
    """
    (height, width), (low, high) = size, lengths
    across, down = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    hidden = torch.zeros(height, width, dtype=torch.bool)
    for x, y, a, b, turn, corner in patches:
        half = torch.tensor([(low + (high - low) * a) * width, (low + (high - low) * b) * height]) / 2
        cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
        turned = torch.tensor([[cosine, -sine], [sine, cosine]])
        # Powers are slow: only the box about the patch is looked at.
        (long, wide), (cosine, sine) = half.tolist(), (abs(cosine), abs(sine))
        reach_x, reach_y = long * cosine + wide * sine + 1, long * sine + wide * cosine + 1
        columns = slice(max(0, int(x * width - reach_x)), min(width, int(x * width + reach_x) + 1))
        rows = slice(max(0, int(y * height - reach_y)), min(height, int(y * height + reach_y) + 1))
        centres = torch.stack(torch.meshgrid(across[columns], down[rows], indexing="xy"), -1)
        offset = (centres - torch.tensor([x * width, y * height])) @ turned / half
        hidden[rows, columns] |= offset.abs().pow(2 + 6 * corner).sum(-1) < 1
    return hidden


def jitter_colours(photo: Tensor, strength: float, normal: Sequence[Tensor]) -> Tensor:
    """Random gain, offset and channel mixing of a uint8 photo [3, H, W]; strength 1 is strong.

    `normal` is Augmentation.colours.
    """
    gain = torch.exp(0.4 * strength * normal[0])
    tint = torch.exp(0.2 * strength * normal[1])
    offset = 40 * strength * normal[2]
    mix = torch.eye(3) + 0.25 * strength * normal[3]
    mix = mix / mix.sum(1, keepdim=True).clamp_min(0.3)
    pixels = photo.float()
    pixels = torch.einsum("ij,jhw->ihw", mix, pixels) * tint[:, None, None]
    mean = pixels.mean()
    return ((pixels - mean) * gain + mean + offset).round().clamp(0, 255).to(torch.uint8)
