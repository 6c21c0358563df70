"""Configurations: one frozen dataclass a stage, TOML in, JSON stored beside every output.

An unknown key is an error, so is a value of another type; an output made with another config is refused
with the differing keys named (:func:`finished`), never silently reused.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

CATEGORIES = (
    "aeroplane", "bicycle", "boat", "bottle", "bus", "car",
    "chair", "diningtable", "motorbike", "sofa", "train", "tvmonitor",
)  # fmt: skip
NUISANCES = ("shape", "pose", "texture", "context", "weather")
OCCLUSION_LEVELS = ("L1", "L2", "L3")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """`ntdm make-data`."""

    categories: tuple[str, ...] = ("car", "motorbike", "sofa")
    train_per_category: int = 800
    val_per_category: int = 50
    ood_per_category: int = 15  # each nuisance
    iid_per_category: int = 10
    image_size: int = 160  # pixels, the longer side of a photo
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise ValueError(f"synthetic categories are {self.categories}: want one or more, each once")
        for name in (
            "train_per_category",
            "val_per_category",
            "ood_per_category",
            "iid_per_category",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"synthetic {name} is {getattr(self, name)}: want 0 or more")
        if not 48 <= self.image_size <= 2048:
            raise ValueError(f"synthetic image_size is {self.image_size}: want 48 to 2048 pixels")


@dataclass(frozen=True, kw_only=True)
class PrepConfig:
    """`ntdm prep-data`. `scale` is s of design 3.2: the crop's nominal focal length is 3000 s pixels."""

    image_size: tuple[int, int] = (512, 512)  # H, W
    scale: float = 0.0  # 0: max(H, W) / 640, so that a unit-diagonal object at distance 5 fits
    objects: str = "first"  # NeMo's protocol: the first object of an image, if it has a pose

    def __post_init__(self) -> None:
        if self.objects not in ("first", "all"):
            raise ValueError(f"prep objects is {self.objects!r}: want 'first' or 'all'")
        if len(self.image_size) != 2 or min(self.image_size) < 16 or max(self.image_size) > 4096:
            raise ValueError(f"prep image_size is {self.image_size}: want H W, each 16 to 4096 pixels")
        if self.scale < 0:
            raise ValueError(f"prep scale is {self.scale}: want a positive number, or 0 for max(H, W) / 640")

    @property
    def resolved_scale(self) -> float:
        return self.scale or max(self.image_size) / 640


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """`ntdm fit-shapes`: template, Psi, and the weights of Eq. 2 and its regularisers."""

    subdivisions: int = 3  # icosphere: 3 gives 642 vertices, 4 gives 2562
    width: int = 64
    layers: int = 4
    frequencies: int = 6  # the paper's 10 alias on 642 vertices and crumple thin parts
    steps: int = 400
    learning_rate: float = 1e-2
    transport_share: float = 0.2  # of the steps, spent on the transport plan before Eq. 2
    surface_samples: int = 600  # points drawn from a CAD, and from its Γ, each step
    normal_weight: float = 5e-6
    laplacian_weight: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`ntdm train`: backbone, neural texture, contrastive loss, optimiser (method.md 3, 6, 7)."""

    method: str = "ntdm"  # or "pose-classifier"
    backbone: str = "tiny"  # or "resnet50"
    backbone_weights: str = ""  # a local torchvision ResNet-50 state dict; empty: from scratch
    feature_dim: int = 64
    view_bins: int = 7
    view_temperature: float = 4.0
    texture_size: int = 64
    texture_momentum: float = 0.9
    first_visit_alpha: float = 0.05
    quad_extent: float = 0.2  # widest quad, in u or v, that is scattered
    positives: int = 128  # visible texels an image
    same_class_negatives: int = 512
    other_class_negatives: int = 200  # each other class
    background_negatives: int = 512
    background_weight: float = 1.0  # the paper's 0.1 belongs to its larger bank and longer training
    background_bank: int = 2560
    background_per_image: int = 20
    far_angle: float = 0.245  # radians on the template sphere
    temperature: float = 0.07
    epochs: int = 12
    batch_size: int = 16
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05  # of the first, reached by exponential decay
    weight_decay: float = 0.0
    mirror: bool = True
    augment: float = 0.4  # strength of photometric jitter, 0 is none (the paper's choice)
    patches: float = (
        0.35  # share of photos with rectangles of other photos laid over; 0 is the paper's choice
    )
    bf16: bool = True
    pose_bins: int = 41  # pose-classifier
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Inference of `ntdm evaluate` and `ntdm infer` (method.md 8)."""

    azimuths: int = 12
    elevations: tuple[float, ...] = (-30.0, 0.0, 30.0, 60.0)  # degrees
    thetas: tuple[float, ...] = (-30.0, 0.0, 30.0)
    distance: float = 5.0
    clutter_weight: float = 0.02  # kappa
    clutter: str = "nearest"  # or "mean"
    silhouette: str = "soft"  # or "hard"
    sigma: float = 1.0  # pixels of the feature map
    refined_starts: int = 4  # best starts that are refined; the better one after `screening_steps` goes on
    screening_steps: int = 6
    steps: int = 30
    learning_rate: float = 0.05
    learning_rate_decay: float = 0.2
    decay_every: int = 12
    refine_shape: bool = True
    shape_every: int = 4  # the latent moves on every so many steps
    refine_distance: bool = True
    refine_scale: bool = True
    size_prior: float = 0.2  # weight of log(distance / nominal)^2 + log(s')^2: crops are distance-normalised
    refine_principal_point: bool = False  # fixed under the NeMo protocol, whose crops are centred
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in (("clutter", ("nearest", "mean")), ("silhouette", ("soft", "hard"))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"infer {key} is {getattr(self, key)!r}: want one of {', '.join(allowed)}")


Config = TypeVar("Config", SyntheticConfig, PrepConfig, ShapeConfig, TrainConfig, InferConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready dictionary of a config: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: Mapping[str, Any], source: str = "config") -> Config:
    """A config from plain values; ValueError names `source` and a key that is unknown or mistyped."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(hints))}")
    return cls(**{key: _convert(value, hints[key], f"{source}: {key}") for key, value in values.items()})


def load_toml(cls: type[Config], path: Path) -> Config:
    """A config from a TOML file; ValueError names the file and what is wrong in it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} is not TOML: {error}") from None
    return from_dict(cls, values, str(path))


def apply_overrides(config: Config, settings: Sequence[str]) -> Config:
    """`--set key=value` pairs on top of a config; values are read as TOML, a bare word as a string."""
    values = to_dict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r}: want key=value")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return from_dict(type(config), values, "--set")


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """'key: old -> new' for every key that differs, nested ones as outer.inner; empty when equal."""
    texts = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            texts += [f"{key}.{part}" for part in filter(None, [difference(before, after)])]
        elif before != after:
            texts.append(f"{key}: {before!r} -> {after!r}")
    return ", ".join(texts)


def finished(path: Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether an existing finished output can be kept.

    True: same config, skip. False: `overwrite` was asked. ValueError: another config, keys named.
    """
    if overwrite:
        return False
    changed = difference(made_with, wanted)
    if changed:
        raise ValueError(f"{path} was made with another config ({changed}); pass --overwrite to replace it")
    return True


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final`, renamed onto it only when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}: want a list")
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where} is {value!r}: want {len(kinds)} values")
        return tuple(_convert(v, k, where) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}: want {hint.__name__}")
    return value
