"""Training batches: stacked samples, mirrored, colour-jittered and, where the config says so, patched.

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


def make_batch(
    items: Sequence[dict[str, Any]],
    categories: Sequence[str],
    num_latents: Sequence[int],
    config: TrainConfig,
    generator: torch.Generator,
) -> Batch:
    """Stack samples; mirror half of them, jitter their colours and patch them where the config says so.

    Args:
        items: as ntdm.sample_dataset.SampleDataset gives them.
        categories: the model's; a sample's category becomes its index there.
        num_latents: K of each category; empty for a method that uses no latents.
    """
    index = [categories.index(item["category"]) for item in items]
    photos, masks, viewpoints, points = [], [], [], []
    for item in items:
        photo, mask, viewpoint = item["image"], item["amodal_mask"], item["viewpoint"]
        point = item["principal_point"]
        if config.mirror and torch.rand((), generator=generator) < 0.5:
            photo, mask, viewpoint = photo.flip(-1), mask.flip(-1), mirror_viewpoint(viewpoint)
            point = torch.stack([photo.shape[-1] - point[0], point[1]])
        if config.augment > 0:
            photo = jitter_colours(photo, config.augment, generator)
        photos.append(photo)
        masks.append(mask)
        viewpoints.append(viewpoint)
        points.append(point)
    photo, amodal_mask, hidden = torch.stack(photos), torch.stack(masks), None
    # Without a CAD there is no mask, and nobody knows where the background is.
    background = ~amodal_mask & amodal_mask.flatten(1).any(1)[:, None, None]
    if config.patches > 0:
        hidden = patches(photo.shape, config.patches, config.patch_size, generator)
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


def patches(
    shape: Sequence[int], share: float, size: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Where photos of `shape` [B, 3, H, W] are covered, a share of them: bool [B, H, W].

    Up to four patches a photo, turned, with outlines between ellipse and rectangle: like occluders' they run
    in any direction. Lengths and widths are drawn between the two of `size`, of the photo's. What is covered
    is not learned from; the features around it learn not to depend on it.
    """
    count, _, height, width = shape
    low, high = size
    grid = torch.stack(
        torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy"), -1
    )
    hidden = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        if torch.rand((), generator=generator) >= share:
            continue
        for _ in range(int(torch.randint(1, 5, (), generator=generator))):
            x, y, a, b, turn, corner = torch.rand(6, generator=generator).tolist()
            half = torch.tensor([(low + (high - low) * a) * width, (low + (high - low) * b) * height]) / 2
            cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
            turned = torch.tensor([[cosine, -sine], [sine, cosine]])
            # Powers are slow: only the box about the patch is looked at.
            (a, b), (cosine, sine) = half.tolist(), (abs(cosine), abs(sine))
            reach_x, reach_y = a * cosine + b * sine + 1, a * sine + b * cosine + 1
            columns = slice(max(0, int(x * width - reach_x)), max(0, int(x * width + reach_x) + 1))
            rows = slice(max(0, int(y * height - reach_y)), max(0, int(y * height + reach_y) + 1))
            offset = (grid[rows, columns] - torch.tensor([x * width, y * height])) @ turned / half
            hidden[i, rows, columns] |= offset.abs().pow(2 + 6 * corner).sum(-1) < 1
    return hidden


def jitter_colours(photo: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random gain, offset and channel mixing of a uint8 photo [3, H, W]; strength 1 is strong."""
    gain = torch.exp(0.4 * strength * torch.randn(1, generator=generator))
    tint = torch.exp(0.2 * strength * torch.randn(3, generator=generator))
    offset = 40 * strength * torch.randn(1, generator=generator)
    mix = torch.eye(3) + 0.25 * strength * torch.randn(3, 3, generator=generator)
    mix = mix / mix.sum(1, keepdim=True).clamp_min(0.3)
    pixels = photo.float()
    pixels = torch.einsum("ij,jhw->ihw", mix, pixels) * tint[:, None, None]
    mean = pixels.mean()
    return ((pixels - mean) * gain + mean + offset).round().clamp(0, 255).to(torch.uint8)
