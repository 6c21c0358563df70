"""The pose classifier: 41 bins for each of azimuth, elevation and in-plane rotation, and a class head.

The paper's Res50-Pose and Res50-Class in one net: a ResNet trunk, globally pooled, and linear heads
trained by cross entropy. It predicts no mask and no shape.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm import backbone
from ntdm.batch import Batch
from ntdm.config import TrainConfig

# lowest angle and extent of the range that the bins divide: azimuth, elevation, theta
RANGES = ((0.0, 2 * math.pi), (-math.pi / 2, math.pi), (-math.pi, 2 * math.pi))


class PoseClassifier(nn.Module):
    """Pooled trunk features -> pose bins and category."""

    def __init__(self, config: TrainConfig, categories: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.categories = tuple(categories)
        self.backbone = backbone.trunk(config.backbone, config.backbone_weights)
        self.pose = nn.Linear(self.backbone.dim, 3 * config.pose_bins)
        self.category = nn.Linear(self.backbone.dim, len(self.categories))

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 photos [B, 3, H, W] -> pose logits [B, 3, bins] and class logits [B, M]."""
        x = backbone.normalise_photo(photo).contiguous(memory_format=torch.channels_last)
        with torch.autocast(photo.device.type, torch.bfloat16, enabled=self.config.bf16):
            pooled = self.backbone(x)
        pooled = pooled.float()
        return self.pose(pooled).unflatten(1, (3, -1)), self.category(pooled)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean cross entropy of the three angles plus that of the class."""
        pose, category = self(batch.photo)
        target = torch.tensor(batch.category, device=category.device)
        pose_loss = F.cross_entropy(pose.flatten(0, 1), self.bins(batch.viewpoint).flatten())
        class_loss = F.cross_entropy(category, target)
        loss = pose_loss + class_loss
        right = float((category.argmax(1) == target).float().mean())
        return loss, {"loss": float(loss.detach()), "class_accuracy": right}

    def bins(self, viewpoint: Tensor) -> Tensor:
        """Bin numbers [B, 3] of viewpoints [B, 4]."""
        count = self.config.pose_bins
        columns = [
            (((viewpoint[:, k] - low) % extent if k != 1 else viewpoint[:, k] - low) / extent * count).long()
            for k, (low, extent) in enumerate(RANGES)
        ]
        return torch.stack(columns, 1).clamp(0, count - 1)

    @torch.no_grad()
    def predict(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Angles [B, 3] (centres of the likeliest bins, radians) and class probabilities [B, M]."""
        pose, category = self(photo)
        best = pose.argmax(-1).double() + 0.5
        low, extent = torch.tensor(RANGES, dtype=torch.float64, device=best.device).unbind(1)
        return low + best / self.config.pose_bins * extent, category.softmax(-1)
