"""Feed-forward classifiers: a ResNet trunk, globally pooled, and linear heads trained by cross entropy.

    res50-pose       41 bins for each of azimuth, elevation and in-plane rotation (the paper's Res50-Pose)
    res50-class      the category (Res50-Class)
    pose-classifier  both heads on one trunk: one training for what the two above say

They predict no mask and no shape, and need no category to predict a pose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.config.stages import TrainConfig, check_choice, check_range
from ntdm.data import distributed
from ntdm.data.batch import Batch
from ntdm.methods.base import Method
from ntdm.methods.pose_bins import likeliest_angles, to_bins
from ntdm.nn import backbone
from ntdm.nn.base import Guess, Model

HEADS = {
    "pose-classifier": ("pose", "category"),
    "res50-pose": ("pose",),
    "res50-class": ("category",),
}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrainConfig):
    """[train], [train.classifier] and the method's own table: the size of its input and of its pose head."""

    family: ClassVar[str] = "classifier"

    method: str = "pose-classifier"
    resize: int = 0  # pixels of the square that photos are resized to; 0 leaves them as they are
    pose_bins: int = 41  # for each of azimuth, elevation, theta

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "train", "method", *HEADS)
        check_range(self, "train", 0, 4096, "resize")
        check_range(self, "train", 1, None, "pose_bins")


class Classifier(Model):
    """Pooled trunk features -> pose bins, category, or both, as `config.method` says."""

    def __init__(self, config: ClassifierConfig, categories: Sequence[str]) -> None:
        super().__init__()
        self.config: ClassifierConfig = config
        self.categories = tuple(categories)
        self.backbone = backbone.trunk(config.backbone, config.backbone_weights)
        heads = HEADS[config.method]
        self.pose = nn.Linear(self.backbone.dim, 3 * config.pose_bins) if "pose" in heads else None
        self.category = nn.Linear(self.backbone.dim, len(self.categories)) if "category" in heads else None

    @property
    def multiple(self) -> int:
        """Any size will do: the map is pooled, whatever remains of a last row or column."""
        return 1

    def forward(self, photo: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """uint8 photos [B, 3, H, W] -> pose logits [B, 3, bins] and class logits [B, M], or None."""
        dtype = next(self.parameters()).dtype
        x = backbone.normalise_photo(photo, dtype)
        if self.config.resize:
            side = (self.config.resize, self.config.resize)
            x = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=True)
        with torch.autocast(photo.device.type, torch.bfloat16, enabled=self.config.bf16):
            pooled = self.backbone(x.contiguous(memory_format=torch.channels_last))
        pooled = pooled.to(dtype)  # from bfloat16
        pose = None if self.pose is None else self.pose(pooled).unflatten(1, (3, -1))
        return pose, None if self.category is None else self.category(pooled)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean cross entropy of the three angles plus that of the class, of the heads it has."""
        pose, category = self(batch.photo)
        share = len(batch.photo) / distributed.all_reduce_sum(len(batch.photo))
        losses, figures = [], {}
        if pose is not None:
            target = to_bins(batch.viewpoint, self.config.pose_bins)
            losses.append(F.cross_entropy(pose.flatten(0, 1), target.flatten()))
            figures["bin_accuracy"] = float((pose.argmax(-1) == target).float().mean())
        if category is not None:
            target = torch.tensor(batch.category, device=category.device)
            losses.append(F.cross_entropy(category, target))
            figures["class_accuracy"] = float((category.argmax(1) == target).float().mean())
        loss = torch.stack(losses).sum() * share
        figures = {"loss": float(loss.detach())} | {k: v * share for k, v in figures.items()}
        return loss, {k: distributed.all_reduce_sum(v) for k, v in figures.items()}

    @torch.no_grad()
    def predict(self, photo: Tensor, category: Sequence[int] = ()) -> Guess:
        """Poses, which are the same whatever the category, and the likeliest class with its probability."""
        pose, logits = self(photo)
        angles = None if pose is None else likeliest_angles(pose)
        if logits is None:
            return Guess(viewpoint=angles, free_viewpoint=angles)
        score, best = logits.softmax(-1).max(-1)
        return Guess(viewpoint=angles, free_viewpoint=angles, category=best, score=score)


METHODS = tuple(
    Method(
        name=name,
        config=ClassifierConfig,
        build=lambda config, categories, _: Classifier(config, categories),
        joint=True,
    )
    for name in HEADS
)
