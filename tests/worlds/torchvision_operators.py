"""torchvision's two operators that Mask R-CNN calls, in plain torch.

torchvision's wheel holds operators for one build of torch, and beside another, such as the CPU's, it does not
even import. Its Python code is what is tested here, and it needs these. Unlike torchvision's, `roi_align`
clamps points beyond the picture to its edge, and samples two by two points a cell when asked to adapt their
number.
"""

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor

_KEPT: list[torch.library.Library] = []  # an operator goes with its library


def install() -> None:
    """Define the operators and import torchvision; ImportError where it is not installed at all."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _KEPT.append(library)
    for name in ("boxes", "roi_align"):
        module = importlib.import_module(f"torchvision.ops.{name}")
        module._assert_has_ops, module._has_ops = (lambda: None), (lambda: True)


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes [N, 4] kept, best first: each refuses all worse ones that overlap it too much."""
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    refused = (shared / (area[:, None] + area - shared) > iou_threshold).triu(1)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if kept[i]:
            kept &= ~refused[i]
    return order[kept]


def roi_align(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling: int, aligned: bool
) -> Tensor:
    """Means [K, C, height, width] of bilinear samples of features [N, C, H, W] in boxes rois [K, 5]."""
    samples = max(sampling, 2)
    box = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    extent = box[:, 2:] - box[:, :2]
    extent = extent if aligned else extent.clamp_min(1)
    grid = []
    for axis, count, size in ((0, width, features.shape[3]), (1, height, features.shape[2])):
        share = (torch.arange(count * samples) + 0.5) / (count * samples)
        at = box[:, axis, None] + share * extent[:, axis, None]
        # An index is a pixel's centre here: align_corners' convention.
        grid.append(2 * at.clamp(0, size - 1) / max(size - 1, 1) - 1)
    x, y = grid
    points = torch.stack(
        [x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], -1
    )
    out = features.new_zeros(len(rois), features.shape[1], height, width)
    for image in rois[:, 0].long().unique().tolist():
        mine = (rois[:, 0] == image).nonzero()[:, 0]
        here = features[image : image + 1].expand(len(mine), -1, -1, -1)
        sampled = F.grid_sample(here, points[mine], align_corners=True)
        out = out.index_copy(0, mine, F.avg_pool2d(sampled, samples))
    return out
