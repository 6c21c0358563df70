"""Training batches: stacked samples, mirrored, colour-jittered and patched where the config says so.

A mirrored photo of a left-right symmetric object is a photo of it from the mirrored viewpoint: exact for a
symmetric CAD, and so for PASCAL3D+'s.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ntdm.camera import mirror_viewpoint
from ntdm.config import TrainConfig


class Batch(NamedTuple):
    """Training samples on one device."""

    photo: Tensor  # uint8 [B, 3, H, W]
    background: Tensor  # bool [B, H, W]: pixels known to show no object of the model's
    viewpoint: Tensor  # float [B, 4]
    focal: Tensor  # float [B], crop pixels
    principal_point: Tensor  # float [B, 2], crop pixels
    category: list[int]  # [B] index into the model's categories
    latent: list[Tensor]  # [B] of [K_category]
    hidden: Tensor | None = None  # bool [B, H, W]: pixels that show another photo
    amodal_mask: Tensor | None = None  # bool [B, H, W]: the whole object, whatever hides it

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved | {"latent": [z.to(device) for z in self.latent]})

    def first(self, count: int) -> "Batch":
        """Its first `count` samples."""
        kept: dict[str, Any] = {k: v[:count] for k, v in self._asdict().items() if v is not None}
        return self._replace(**kept)


class Augmentation(NamedTuple):
    """What is drawn for one photo."""

    mirrored: bool
    colours: tuple[Tensor, ...] = ()  # standard normal: gain [1], tint [3], offset [1], mixing [3, 3]
    patches: tuple[tuple[float, ...], ...] = ()  # of each: centre x, y, width, height, turn, corner, in 0..1


def draw_augmentation(count: int, config: TrainConfig, generator: torch.Generator) -> list[Augmentation]:
    """Draws for `count` photos. Apart from the photos, so that who needs a few of them can draw for all."""
    drawn = []
    for _ in range(count):
        mirrored = config.mirror and bool(torch.rand((), generator=generator) < 0.5)
        colours: tuple[Tensor, ...] = ()
        if config.augment > 0:
            colours = tuple(torch.randn(shape, generator=generator) for shape in (1, 3, 1, (3, 3)))
        drawn.append(Augmentation(mirrored, colours))
    if config.patches > 0:
        drawn = [a._replace(patches=_draw_patches(config.patches, generator)) for a in drawn]
    return drawn


def _draw_patches(share: float, generator: torch.Generator) -> tuple[tuple[float, ...], ...]:
    """Up to four patches, for a share of the photos."""
    if torch.rand((), generator=generator) >= share:
        return ()
    count = int(torch.randint(1, 5, (), generator=generator))
    return tuple(tuple(torch.rand(6, generator=generator).tolist()) for _ in range(count))


def make_batch(
    items: Sequence[dict[str, Any]],
    categories: Sequence[str],
    num_latents: Sequence[int],
    config: TrainConfig,
    augmentation: Sequence[Augmentation],
) -> Batch:
    """Stack samples, mirrored, jittered and patched as was drawn; a patch shows the photo of the next sample.

    Args:
        items: as ntdm.sample_dataset.SampleDataset gives them.
        categories: the model's; a sample's category becomes its index there.
        num_latents: K of each category; empty for a method that uses no latents.
        augmentation: one a sample.
    """
    index = [categories.index(item["category"]) for item in items]
    photos, masks, viewpoints, points = [], [], [], []
    for item, drawn in zip(items, augmentation, strict=True):
        photo, mask, viewpoint = item["image"], item["amodal_mask"], item["viewpoint"]
        point = item["principal_point"]
        if drawn.mirrored:
            photo, mask, viewpoint = photo.flip(-1), mask.flip(-1), mirror_viewpoint(viewpoint)
            point = torch.stack([photo.shape[-1] - point[0], point[1]])
        if drawn.colours:
            photo = jitter_colours(photo, config.augment, drawn.colours)
        photos.append(photo)
        masks.append(mask)
        viewpoints.append(viewpoint)
        points.append(point)
    photo, amodal_mask, hidden = torch.stack(photos), torch.stack(masks), None
    # Without a CAD there is no mask, and nobody knows where the background is.
    background = ~amodal_mask & amodal_mask.flatten(1).any(1)[:, None, None]
    if config.patches > 0:
        size = (photo.shape[2], photo.shape[3])
        hidden = torch.stack([covered(size, drawn.patches, config.patch_size) for drawn in augmentation])
        photo = torch.where(hidden[:, None], photo.roll(-1, 0), photo)
        background = torch.where(hidden, background.roll(-1, 0), background)
    return Batch(
        photo=photo,
        background=background,
        viewpoint=torch.stack(viewpoints),
        focal=torch.stack([item["focal"] for item in items]),
        principal_point=torch.stack(points),
        category=index,
        latent=[item["latent"][: num_latents[c]] for item, c in zip(items, index, strict=True)]
        if num_latents
        else [],
        hidden=hidden,
        amodal_mask=amodal_mask,
    )


def covered(
    size: tuple[int, int], patches: Sequence[Sequence[float]], lengths: tuple[float, float]
) -> Tensor:
    """Where patches cover a photo of `size` (H, W): bool [H, W].

    They are turned, with outlines between ellipse and rectangle: like occluders' they run in any direction.
    Lengths and widths lie between the two `lengths`, of the photo's. What is covered is not learned from; the
    features around it learn not to depend on it.
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


def jitter_colours(photo: Tensor, strength: float, drawn: Sequence[Tensor]) -> Tensor:
    """Random gain, offset and channel mixing of a uint8 photo [3, H, W]; strength 1 is strong.

    `drawn` is Augmentation.colours.
    """
    gain = torch.exp(0.4 * strength * drawn[0])
    tint = torch.exp(0.2 * strength * drawn[1])
    offset = 40 * strength * drawn[2]
    mix = torch.eye(3) + 0.25 * strength * drawn[3]
    mix = mix / mix.sum(1, keepdim=True).clamp_min(0.3)
    pixels = photo.float()
    pixels = torch.einsum("ij,jhw->ihw", mix, pixels) * tint[:, None, None]
    mean = pixels.mean()
    return ((pixels - mean) * gain + mean + offset).round().clamp(0, 255).to(torch.uint8)
