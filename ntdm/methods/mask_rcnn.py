"""MT Mask R-CNN: torchvision's Mask R-CNN with a fourth head, for pose bins (the paper's appendix A.4).

    L = L_cls + L_box + L_mask + L_pose, and the region proposals' own two losses

The trunk is the classifiers', under a feature pyramid of strides 8 to 64. Every crop shows one object, whose
box is that of its amodal mask, the CAD projected at the annotated pose. Predicted is, for each class, the
proposal likeliest to be of that class: its box, amodal mask and pose.

torchvision is needed for this method only, and imported when its model is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.config.stages import TrainConfig, check_choice, check_range
from ntdm.data.batch import Batch
from ntdm.methods.base import Method
from ntdm.methods.pose_bins import likeliest_angles, to_bins
from ntdm.nn import backbone
from ntdm.nn.base import Guess, MissingPackageError, Model

STRIDES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Size:
    """Widths of the heads and numbers of boxes; the larger one is torchvision's Mask R-CNN."""

    channels: int
    representation: int
    mask_layers: int
    proposals: int  # an image, after non-maximum suppression
    sampled_anchors: int
    sampled_proposals: int


SIZES = {"tiny": Size(64, 256, 2, 64, 64, 16), "resnet50": Size(256, 1024, 4, 1000, 256, 512)}


def detection() -> ModuleType:
    """torchvision.models.detection; MissingPackageError says what to do where torchvision does not import."""
    try:
        from torchvision.models import detection
    # RuntimeError: a torchvision whose operators were built for another torch.
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingPackageError(
            f"method mask-rcnn needs torchvision, which does not import ({str(error).splitlines()[0]}): "
            f"install the torchvision that was built for torch {torch.__version__}"
        ) from None
    return detection


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(TrainConfig):
    """[train] and [train.mask-rcnn]: the size of its pose head."""

    method: str = "mask-rcnn"
    pose_bins: int = 41  # for each of azimuth, elevation, theta

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "train", "method", "mask-rcnn")
        check_range(self, "train", 1, None, "pose_bins")


class MaskRCNN(Model):
    """Trunk, feature pyramid, region proposals; heads for class, box, amodal mask and pose."""

    def __init__(self, config: MaskRCNNConfig, categories: Sequence[str]) -> None:
        super().__init__()
        parts = detection()
        from torchvision import ops

        self.config: MaskRCNNConfig = config
        self.categories = tuple(categories)
        self.backbone = backbone.trunk(config.backbone, config.backbone_weights)
        size, classes = SIZES[config.backbone], len(self.categories) + 1  # class 0 is background
        width = size.channels
        self.pyramid = ops.FeaturePyramidNetwork(
            list(self.backbone.dims), width, ops.feature_pyramid_network.LastLevelMaxPool()
        )
        anchors = parts.anchor_utils.AnchorGenerator(
            tuple((4 * stride,) for stride in STRIDES), ((0.5, 1.0, 2.0),) * len(STRIDES)
        )
        kept = {"training": size.proposals, "testing": size.proposals}
        self.proposals = parts.rpn.RegionProposalNetwork(
            anchors, parts.rpn.RPNHead(width, 3), 0.7, 0.3, size.sampled_anchors, 0.5,
            {mode: 2 * number for mode, number in kept.items()}, kept, 0.7,
        )  # fmt: skip
        levels = ["0", "1", "2"]
        self.heads = parts.roi_heads.RoIHeads(
            ops.MultiScaleRoIAlign(levels, 7, 2),
            parts.faster_rcnn.TwoMLPHead(49 * width, size.representation),
            parts.faster_rcnn.FastRCNNPredictor(size.representation, classes),
            0.5, 0.5, size.sampled_proposals, 0.25, None, 0.0, 0.5, 1,
            ops.MultiScaleRoIAlign(levels, 14, 2),
            parts.mask_rcnn.MaskRCNNHeads(width, (width,) * size.mask_layers, 1),
            parts.mask_rcnn.MaskRCNNPredictor(width, width, classes),
        )  # fmt: skip
        self.pose = nn.Linear(size.representation, 3 * config.pose_bins)

    def _features(self, photo: Tensor) -> dict[str, Tensor]:
        x = backbone.normalise_photo(photo).contiguous(memory_format=torch.channels_last)
        with torch.autocast(photo.device.type, torch.bfloat16, enabled=self.config.bf16):
            maps = self.backbone.pyramid(x)
        return self.pyramid({str(level): each.float() for level, each in enumerate(maps)})

    def _propose(
        self, photo: Tensor, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        sizes = [(photo.shape[2], photo.shape[3])] * len(photo)
        images = detection().image_list.ImageList(photo, sizes)
        return self.proposals(images, features, targets)

    def training_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The sum of all heads' losses and the proposals' own.

        Raises:
            ValueError: a photo without a pixel of amodal mask, as where no CAD is annotated.
        """
        targets = _targets(batch)
        # torchvision's samplers draw from the global generator.
        seed = int(torch.randint(2**31, (), generator=generator))
        devices = [batch.photo.device] if batch.photo.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            features = self._features(batch.photo)
            proposals, losses = self._propose(batch.photo, features, targets)
            proposals, matched, labels, box_targets = self.heads.select_training_samples(proposals, targets)
        sizes = [(batch.photo.shape[2], batch.photo.shape[3])] * len(proposals)
        described = self.heads.box_head(self.heads.box_roi_pool(features, proposals, sizes))
        logits, boxes = self.heads.box_predictor(described)
        parts = detection().roi_heads
        losses["class"], losses["box"] = parts.fastrcnn_loss(logits, boxes, labels, box_targets)
        objects = [label > 0 for label in labels]
        inside = [box[is_object] for box, is_object in zip(proposals, objects, strict=True)]
        which = [index[is_object] for index, is_object in zip(matched, objects, strict=True)]
        masks = self.heads.mask_predictor(
            self.heads.mask_head(self.heads.mask_roi_pool(features, inside, sizes))
        )
        losses["mask"] = parts.maskrcnn_loss(
            masks, inside, [t["masks"] for t in targets], [t["labels"] for t in targets], which
        )
        bins = to_bins(batch.viewpoint, self.config.pose_bins)
        owner = torch.repeat_interleave(
            torch.arange(len(proposals), device=bins.device),
            torch.tensor([len(b) for b in inside], device=bins.device),
        )
        pose = self.pose(described[torch.cat(objects)]).unflatten(1, (3, -1))
        losses["pose"] = F.cross_entropy(pose.flatten(0, 1), bins[owner].flatten())
        loss = torch.stack(list(losses.values())).sum()
        figures = {name.removeprefix("loss_"): float(value.detach()) for name, value in losses.items()}
        return loss, {"loss": float(loss.detach()), **figures}

    @torch.no_grad()
    def predict(self, photo: Tensor, category: Sequence[int]) -> Guess:
        """Pose and amodal mask of the likeliest box of the given class, and of that of any class."""
        features = self._features(photo)
        proposals, _ = self._propose(photo, features, None)
        sizes = [(photo.shape[2], photo.shape[3])] * len(photo)
        described = self.heads.box_head(self.heads.box_roi_pool(features, proposals, sizes))
        logits, offsets = self.heads.box_predictor(described)
        boxes = self.heads.box_coder.decode(offsets, proposals)  # [R, M + 1, 4]
        counts = [len(p) for p in proposals]
        score, likeliest = zip(
            *(each.softmax(1)[:, 1:].max(0) for each in logits.split(counts)), strict=True
        )  # [M] each, of every photo
        first = torch.tensor([0, *counts[:-1]], device=photo.device).cumsum(0)
        best_row = torch.stack(likeliest) + first[:, None]  # [N, M] of the boxes, by photo and class
        probability, best = torch.stack(score).max(1)
        given = torch.tensor(category, device=photo.device)
        answers = []
        for label in (given, best):
            row = best_row.gather(1, label[:, None])[:, 0]
            angles = likeliest_angles(self.pose(described[row]).unflatten(1, (3, -1)))
            box = _clipped(boxes[row, label + 1], sizes[0])
            answers.append((angles, self._masks(features, box, label, sizes)))
        (viewpoint, amodal), (free, amodal_free) = answers
        return Guess(
            viewpoint=viewpoint, free_viewpoint=free, category=best, score=probability, amodal=amodal,
            amodal_free=amodal_free,
        )  # fmt: skip

    def _masks(
        self, features: dict[str, Tensor], box: Tensor, label: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Masks bool [N, H, W] of one box [N, 4] a photo, as objects of the classes `label` [N]."""
        pooled = self.heads.mask_roi_pool(features, list(box[:, None]), sizes)
        logits = self.heads.mask_predictor(self.heads.mask_head(pooled))
        share = logits[torch.arange(len(label), device=label.device), label + 1].sigmoid()
        return detection().roi_heads.paste_masks_in_image(share[:, None], box, sizes[0])[:, 0] > 0.5


def _targets(batch: Batch) -> list[dict[str, Tensor]]:
    """torchvision's description of each photo's one object; label 0 is background."""
    assert batch.amodal_mask is not None, "make_batch gives it"
    targets = []
    for mask, category in zip(batch.amodal_mask, batch.category, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if not len(rows):
            raise ValueError(
                "a training photo has an empty amodal mask: mask-rcnn learns from masks; train on caches "
                "whose samples have CADs"
            )
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        label = torch.tensor([category + 1], device=mask.device)
        targets.append({"boxes": box[None], "labels": label, "masks": mask[None].to(torch.uint8)})
    return targets


def _clipped(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] cut to the picture, at least a pixel wide and high."""
    limit = box.new_tensor([size[1], size[0]])
    low = box[:, :2].clamp_min(0).minimum(limit - 1)
    return torch.cat([low, box[:, 2:].minimum(limit).maximum(low + 1)], 1)


METHOD = Method(
    name="mask-rcnn", config=MaskRCNNConfig, build=lambda config, categories, _: MaskRCNN(config, categories)
)
