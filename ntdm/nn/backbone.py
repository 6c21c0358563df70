"""Backbones: photo -> map of unit feature vectors.

``ResNet50Features`` is NeMo's extractor (method: torchvision's ResNet-50 up to layer4, two up-sampling
layers back to stride 8); its parameter names are torchvision's, so that a torchvision state dict loads by
name. ``TinyFeatures`` is the same idea at a size that trains on a CPU: stride 4, up-sampled from stride 8;
``SmallFeatures`` goes down to stride 16. All end in a 1 x 1 convolution without bias and an L2 norm over
channels.
"""

import os
import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdm.io.untrusted import one_line, reason

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Net = TypeVar("Net", bound=Any)


def normalise_photo(photo: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, 3, H, W] -> [B, 3, H, W] of `dtype` with ImageNet's mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype, device=photo.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=dtype, device=photo.device)[:, None, None]
    return (photo.to(dtype) / 255 - mean) / std


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """ResNet-50's block: 1 x 1, 3 x 3 (with the stride, as torchvision), 1 x 1 to 4 times the width."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class DoubleConv(nn.Module):
    """Two 3 x 3 convolutions with batch norm, after each up-sampling step."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            _conv(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _upsample_concat(coarse: Tensor, fine: Tensor) -> Tensor:
    up = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([up, fine], 1)


class ResNet50Trunk(nn.Module):
    """torchvision's ResNet-50 without its classifier: [B, 3, H, W] -> globally pooled [B, 2048]."""

    dim = 2048
    dims = (512, 1024, 2048)  # channels of the pyramid
    multiple = 32  # of pixels, that image sides must be

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        self.layer1 = self._layer(64, 64, 3, 1)
        self.layer2 = self._layer(256, 128, 4, 2)
        self.layer3 = self._layer(512, 256, 6, 2)
        self.layer4 = self._layer(1024, 512, 3, 2)

    @staticmethod
    def _layer(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [Bottleneck(4 * width, width) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(inputs, width, stride), *rest)

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of strides 8, 16, 32."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        c2 = self.layer2(self.layer1(x))
        c3 = self.layer3(c2)
        return c2, c3, self.layer4(c3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pyramid(x)[2].mean((-2, -1))


class ResNet50Features(ResNet50Trunk):
    """ResNet-50 with two up-sampling layers: [B, 3, H, W] -> unit features [B, d, H/8, W/8]."""

    stride = 8

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.reduce = DoubleConv(2048, 1024)
        self.up1 = DoubleConv(1024 + 1024, 512)
        self.up2 = DoubleConv(512 + 512, 256)
        self.head = nn.Conv2d(256, feature_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        c2, c3, c4 = self.pyramid(x)
        y = self.up1(_upsample_concat(self.reduce(c4), c3))
        y = self.up2(_upsample_concat(y, c2))
        return F.normalize(self.head(y), dim=1)


def _tiny_stem() -> nn.Sequential:
    return nn.Sequential(_conv(3, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU(inplace=True))


class TinyTrunk(nn.Module):
    """A small residual classifier trunk for CPUs: [B, 3, H, W] -> globally pooled [B, 256], at stride 32."""

    dim = 256
    dims = (48, 128, 256)
    multiple = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_tiny_stem(), nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(BasicBlock(32, 48, 2), BasicBlock(48, 48))
        self.layer2 = nn.Sequential(BasicBlock(48, 128, 2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256))

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of strides 8, 16, 32."""
        c2 = self.layer1(self.stem(x))
        c3 = self.layer2(c2)
        return c2, c3, self.layer3(c3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pyramid(x)[2].mean((-2, -1))


class TinyFeatures(nn.Module):
    """A small residual net for CPUs: [B, 3, H, W] -> unit features [B, d, H/4, W/4].

    It goes no deeper than stride 8, on purpose: a feature that sees the whole object is spoilt by an occluder
    anywhere on it, one that sees a part only by an occluder on that part.
    """

    stride = 4
    multiple = 16

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.stem = _tiny_stem()
        self.layer1 = nn.Sequential(BasicBlock(32, 48, 2), BasicBlock(48, 48))
        self.layer2 = nn.Sequential(BasicBlock(48, 128, 2), BasicBlock(128, 128))
        self.up = BasicBlock(128 + 48, 64)
        self.head = nn.Conv2d(64, feature_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.layer1(self.stem(x))
        y = self.up(_upsample_concat(self.coarse(fine), fine))
        return F.normalize(self.head(y), dim=1)

    def coarse(self, fine: Tensor) -> Tensor:
        """What stride 8 sees, [B, 128, H/8, W/8], of the map of stride 4."""
        return self.layer2(fine)


class SmallFeatures(TinyFeatures):
    """TinyFeatures and a level more: [B, 3, H, W] -> unit features [B, d, H/4, W/4].

    Its features know what is around them: to which end of an aeroplane a wing belongs. It serves photos of
    whole objects; where occluders are, see TinyFeatures.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.layer3 = nn.Sequential(BasicBlock(128, 192, 2), BasicBlock(192, 192))
        self.up_coarse = BasicBlock(192 + 128, 128)

    def coarse(self, fine: Tensor) -> Tensor:
        c2 = self.layer2(fine)
        return self.up_coarse(_upsample_concat(self.layer3(c2), c2))


FeatureNet = ResNet50Features | TinyFeatures
Trunk = ResNet50Trunk | TinyTrunk
FEATURES: dict[str, type[FeatureNet]] = {
    "tiny": TinyFeatures, "small": SmallFeatures, "resnet50": ResNet50Features,
}  # fmt: skip
TRUNKS: dict[str, type[Trunk]] = {"tiny": TinyTrunk, "resnet50": ResNet50Trunk}


def feature_net(name: str, feature_dim: int, weights: str = "") -> FeatureNet:
    """A feature extractor by name, channels-last.

    Args:
        name: a key of FEATURES.
        feature_dim: d of its features.
        weights: path of a local torchvision ResNet-50 state dict (only for "resnet50"); "" is from scratch.

    Raises:
        ValueError: unknown name; a weights file that is missing, unreadable or lacks the trunk's tensors.
    """
    return _prepared(_named(FEATURES, name)(feature_dim), name, weights)


def trunk(name: str, weights: str = "") -> Trunk:
    """A classifier trunk by name; arguments and errors as :func:`feature_net`."""
    return _prepared(_named(TRUNKS, name)(), name, weights)


def _named(table: dict[str, Net], name: str) -> Net:
    if name not in table:
        raise ValueError(f"backbone is {name!r}: want one of {', '.join(table)}")
    return table[name]


def _prepared(model: Net, name: str, weights: str) -> Net:
    if weights:
        if name != "resnet50":
            raise ValueError(f"backbone_weights is set, but {name!r} has no ImageNet weights; use resnet50")
        load_imagenet(model, Path(os.path.expanduser(weights)))
    model.to(memory_format=torch.channels_last)
    return model


def load_imagenet(model: nn.Module, path: Path) -> None:
    """Load a torchvision ResNet-50 state dict by name; its classifier `fc` is ignored.

    Args:
        model: a trunk, whose weights are replaced.
        path: a state dict, or a checkpoint that holds one as "state_dict"; names may begin with "module.", as
            nn.DataParallel's do.

    Raises:
        ValueError: the file is missing, is none that torch reads as tensors, or lacks some of the trunk's.
    """
    if not path.is_file():
        raise ValueError(
            f"backbone weights {path}: no such file; give a torchvision ResNet-50 state dict (.pth)"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"backbone weights {path} {_not_tensors(path)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"backbone weights {path} {_not_tensors(path)}") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"backbone weights {path} cannot be read as a state dict: {reason(error)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"backbone weights {path} hold {type(state).__name__}, want a state dict")
    if isinstance(state.get("state_dict"), dict):  # Lightning's and MMCV's checkpoints
        state = state["state_dict"]
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    stages = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    trunk = {k for k in model.state_dict() if k.split(".")[0] in stages}
    # Files from before torch 0.4.1 lack the batch norms' counters, which inference does not use.
    missing = sorted(k for k in trunk - set(state) if not k.endswith("num_batches_tracked"))
    if missing:
        names = one_line(", ".join([*state][:3])) + (" ..." if len(state) > 3 else "")
        raise ValueError(
            f"backbone weights {path}: {missing[0]} and {len(missing) - 1} more tensors are missing; "
            f"it holds {names or 'nothing'}; want torchvision's ResNet-50"
        )
    try:
        model.load_state_dict({k: state[k] for k in trunk & set(state)}, strict=False)
    except RuntimeError as error:
        raise ValueError(f"backbone weights {path} do not fit ResNet-50: {error}") from None


def _not_tensors(path: Path) -> str:
    """What a file is that torch takes for a pickle and will not execute."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "are an empty file: get it again"
    if start.startswith(b"version https://git-lfs"):
        return "are a pointer of Git LFS and not the file itself: `git lfs pull` brings it"
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "hold more than tensors, and are not executed"
    return f"are no file that torch.load reads: it begins with {start[:16]!r}"
