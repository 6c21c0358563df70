"""What a method is to the stages: a model that can be trained, and what it says of photos.

NTDM and every baseline are a :class:`Model`; ntdm/methods/registry.py lists them and says how each is built
and asked. Those that compare feature maps with a background bank are a :class:`FeatureModel`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.config.stages import TrainConfig, check_range
from ntdm.data import distributed
from ntdm.data.batch import Batch
from ntdm.nn import backbone
from ntdm.nn.background import BackgroundBank


class MissingPackageError(ValueError):
    """A package that one method needs, and ntdm does not install, does not import."""


class Model(nn.Module):
    """A network with its training loss. All randomness of a step comes from the generator it is given.

    Attributes:
        config: what it is trained with.
        categories: names; every category number in a batch or a guess is an index here.
        backbone: has `multiple`, the number of pixels of which its maps' sides must be multiples.
    """

    config: TrainConfig
    categories: tuple[str, ...]
    backbone: Any

    @property
    def num_latents(self) -> Sequence[int]:
        """K of each category; empty for a method that uses no shape latents."""
        return ()

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of so many pixels."""
        return int(self.backbone.multiple)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """A scalar to be minimised, and figures for the log, `loss` among them.

        Under torchrun `batch` is this process's part: the scalars of all processes are summed, the figures
        are of the whole batch.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(TrainConfig):
    """Keys of the methods that learn features of surface points, in contrast to a bank of background.

    A surface point is a texel of NTDM's texture, or a vertex of NeMo's mesh.
    """

    feature_dim: int = 64
    texture_momentum: float = 0.9  # of a point's feature, in each batch that shows it
    positives: int = 128  # visible points an image
    temperature: float = 0.07
    background_negatives: int = 512
    background_weight: float = 1.0  # the paper's 0.1 belongs to its larger bank and longer training
    background_bank: int = 2560
    background_per_image: int = 20
    # Weight of the cross entropy by which cells that a patch hides learn to be called hidden (ntdm). Above 0,
    # up to half of the background samples are such cells. 0 is the paper's choice.
    occlusion_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "train", 1, None, "feature_dim", "positives")
        check_range(self, "train", 1, None, "background_bank", "background_per_image")
        check_range(self, "train", 0, None, "background_negatives", "occlusion_weight")
        check_range(self, "train", 0, 1, "texture_momentum", "background_weight")
        check_range(self, "train", 1e-12, None, "temperature")


class FeatureModel(Model):
    """A model with a feature map a photo, in cells of `stride` pixels, and a bank of background features."""

    config: FeatureConfig
    backbone: backbone.FeatureNet
    bank: BackgroundBank

    @property
    def stride(self) -> int:
        """Pixels a cell."""
        return self.backbone.stride

    def features(self, photo: Tensor) -> Tensor:
        """Unit features [B, h, w, d] of uint8 photos [B, 3, H, W], in the type of the model's buffers."""
        dtype = self.bank.features.dtype  # not of the convolutions' result, which may be bfloat16
        x = backbone.normalise_photo(photo, dtype).contiguous(memory_format=torch.channels_last)
        with torch.autocast(photo.device.type, torch.bfloat16, enabled=self.config.bf16):
            y = self.backbone(x)
        return F.normalize(y.to(dtype).permute(0, 2, 3, 1), dim=-1)

    def _touched(self, mask: Tensor) -> Tensor:
        """Cells [B, h, w] of which some pixel of mask [B, H, W] is set."""
        return F.max_pool2d(mask[:, None].float(), self.stride)[:, 0] > 0

    def _empty(self, batch: Batch) -> Tensor:
        """Cells [B, h, w] that show background only."""
        return ~self._touched(~batch.background)

    def _background_samples(self, features: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """`background_per_image` features an image, or fewer, of cells that show background only [n, d].

        With `occlusion_weight` up to half of them are of cells inside the object's outline, where a patch of
        background covers it: those are few, and the hardest to tell from the object.
        """
        empty, limit = self._empty(batch), self.config.background_per_image
        cells = [free.nonzero()[:, 0] for free in empty.flatten(1)]
        counts, shard = distributed.all_gather_counts([len(cell) for cell in cells])
        shuffles = [torch.randperm(count, generator=generator) for count in counts][shard]
        picked = [cell[shuffle] for cell, shuffle in zip(cells, shuffles, strict=True)]
        if self.config.occlusion_weight > 0 and batch.amodal_mask is not None:
            over = (~self._touched(~batch.amodal_mask)).flatten(1)
            picked = [
                torch.cat([cell[hides[cell]][: limit // 2], cell[~hides[cell]]])
                for cell, hides in zip(picked, over, strict=True)
            ]
        return torch.cat(
            [image[cell[:limit]] for image, cell in zip(features.flatten(1, 2), picked, strict=True)]
        )


class Guess(NamedTuple):
    """What a method says of N photos; None where it does not say it. Angles in radians.

    Every photo is given with its true category, and poses and masks are those found under it, as the papers'
    are; the `free` ones are found without that knowledge. A failed prediction has nan angles.
    """

    viewpoint: Tensor | None = None  # [N, 3] azimuth, elevation, theta, or [N, 4] with the distance
    free_viewpoint: Tensor | None = None  # the same, under `category`
    category: Tensor | None = None  # int64 [N], the likeliest
    score: Tensor | None = None  # [N], higher is better
    amodal: Tensor | None = None  # bool [N, H, W]
    visible: Tensor | None = None  # bool [N, H, W]
    amodal_free: Tensor | None = None  # bool [N, H, W]
    latent: Tensor | None = None  # [N, K], nan beyond a category's own K
    scale: Tensor | None = None  # [N]


# uint8 photos [N, 3, H, W] on the model's device and their true category numbers
Predict = Callable[[Tensor, Sequence[int]], Guess]
