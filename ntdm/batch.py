"""Training batches: stacked samples, mirrored, colour-jittered and, where the config says so, patched.

A mirrored photo of a left-right symmetric object is a photo of it from the mirrored viewpoint: exact for a
symmetric CAD, and so for PASCAL3D+'s.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ntdm.camera import mirror_viewpoint
from ntdm.config import TrainConfig


class Batch(NamedTuple):
    """Training samples on one device."""

    photo: Tensor  # uint8 [B, 3, H, W]
    amodal_mask: Tensor  # bool [B, H, W]
    viewpoint: Tensor  # float [B, 4]
    focal: Tensor  # float [B], crop pixels
    principal_point: Tensor  # float [B, 2], crop pixels
    category: list[int]  # [B] index into the model's categories
    latent: list[Tensor]  # [B] of [K_category]
    hidden: Tensor | None = None  # bool [B, H, W]: pixels that show a patch of another photo

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
    photo, hidden = torch.stack(photos), None
    if config.patches > 0:
        photo, hidden = patch_photos(photo, config.patches, generator)
    return Batch(
        photo=photo,
        amodal_mask=torch.stack(masks),
        viewpoint=torch.stack(viewpoints),
        focal=torch.stack([item["focal"] for item in items]),
        principal_point=torch.stack(points),
        category=index,
        latent=[item["latent"][: num_latents[c]] for item, c in zip(items, index, strict=True)]
        if num_latents
        else [],
        hidden=hidden,
    )


def patch_photos(photo: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rectangles of the next photo of the batch laid over a share of the photos [B, 3, H, W], as CutMix.

    Up to four rectangles a photo, each side 0.15 to 0.45 of the photo's. What is covered is not learned from:
    the features around it learn not to depend on it.

    Returns:
        the photos, and the covered pixels [B, H, W] bool.
    """
    count, _, height, width = photo.shape
    patched, hidden = photo.clone(), torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        if torch.rand((), generator=generator) >= share:
            continue
        for _ in range(int(torch.randint(1, 5, (), generator=generator))):
            side, place = torch.rand(2, generator=generator), torch.rand(2, generator=generator)
            h, w = (int((0.15 + 0.3 * s) * n) for s, n in zip(side.tolist(), (height, width), strict=True))
            y, x = (int(p * (n - m)) for p, n, m in zip(place.tolist(), (height, width), (h, w), strict=True))
            patched[i, :, y : y + h, x : x + w] = photo[(i + 1) % count, :, y : y + h, x : x + w]
            hidden[i, y : y + h, x : x + w] = True
    return patched, hidden


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
