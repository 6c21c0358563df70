"""Training batches: stacked samples, changed as was drawn for them (ntdm/data/augment.py)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ntdm.config.stages import TrainConfig
from ntdm.data.augment import Augmentation, Motion, covered, jitter_colours
from ntdm.geometry.camera import mirror_viewpoint


class Batch(NamedTuple):
    """Training samples on one device."""

    photo: Tensor  # uint8 [B, 3, H, W]
    background: Tensor  # bool [B, H, W]: pixels known to show no object of the model's
    viewpoint: Tensor  # float [B, 4]
    focal: Tensor  # float [B], crop pixels
    principal_point: Tensor  # float [B, 2], crop pixels
    category: list[int]  # [B] index into the model's categories
    latent: list[Tensor]  # [B] of [K_category]
    hidden: Tensor | None = None  # bool [B, H, W]: pixels that show another photo, or none
    amodal_mask: Tensor | None = None  # bool [B, H, W]: the whole object, whatever hides it

    def to(self, device: str) -> "Batch":
        """The batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved | {"latent": [z.to(device) for z in self.latent]})

    def first(self, count: int) -> "Batch":
        """Its first `count` samples."""
        kept: dict[str, Any] = {k: v[:count] for k, v in self._asdict().items() if v is not None}
        return self._replace(**kept)


def make_batch(
    items: Sequence[dict[str, Any]],
    categories: Sequence[str],
    num_latents: Sequence[int],
    config: TrainConfig,
    augmentation: Sequence[Augmentation],
) -> Batch:
    """Stack samples, changed as was drawn; a patch shows the photo of the next sample.

    Args:
        items: as ntdm.data.dataset.SampleDataset gives them.
        categories: the model's; a sample's category becomes its index there.
        num_latents: K of each category; empty for a method that uses no latents.
        config: of the training.
        augmentation: one a sample.
    """
    index = [categories.index(item["category"]) for item in items]
    photos, masks, viewpoints, points = [], [], [], []
    for item, change in zip(items, augmentation, strict=True):
        photo, mask, viewpoint = item["image"], item["amodal_mask"], item["viewpoint"]
        point = item["principal_point"]
        if change.mirrored:
            photo, mask, viewpoint = photo.flip(-1), mask.flip(-1), mirror_viewpoint(viewpoint)
            point = torch.stack([photo.shape[-1] - point[0], point[1]])
        if change.colours:
            photo = jitter_colours(photo, config.augment, change.colours)
        photos.append(photo)
        masks.append(mask)
        viewpoints.append(viewpoint)
        points.append(point)
    photo, amodal_mask, hidden = torch.stack(photos), torch.stack(masks), None
    # Without a CAD there is no mask, and nobody knows where the background is.
    background = ~amodal_mask & amodal_mask.flatten(1).any(1)[:, None, None]
    viewpoint, point = torch.stack(viewpoints), torch.stack(points)
    focal, size = torch.stack([item["focal"] for item in items]), (photo.shape[2], photo.shape[3])
    if augmentation[0].motion:
        motion = Motion.of(augmentation, config, size)
        grid = motion.sources(point, size)
        hidden = (grid.abs() > 1).any(-1)  # beyond the photo's border
        photo = F.grid_sample(photo.float(), grid, padding_mode="border", align_corners=False)
        photo = photo.round().clamp(0, 255).to(torch.uint8)
        both = torch.stack([amodal_mask, background], 1).float()
        amodal_mask, background = (F.grid_sample(both, grid, "nearest", align_corners=False) > 0.5).unbind(1)
        viewpoint = viewpoint + F.pad(motion.turn[:, None], (2, 1))
        focal, point = focal * motion.zoom, point + motion.shift
    if config.patches > 0:
        patched = torch.stack([covered(size, change.patches, config.patch_size) for change in augmentation])
        photo = torch.where(patched[:, None], photo.roll(-1, 0), photo)
        background = torch.where(patched, background.roll(-1, 0), background)
        hidden = patched if hidden is None else patched | hidden
    return Batch(
        photo=photo,
        background=background,
        viewpoint=viewpoint,
        focal=focal,
        principal_point=point,
        category=index,
        latent=[item["latent"][: num_latents[c]] for item, c in zip(items, index, strict=True)]
        if num_latents
        else [],
        hidden=hidden,
        amodal_mask=amodal_mask,
    )
