"""Configurations: one frozen dataclass a stage, TOML in, JSON stored beside every output.

An unknown key is an error, so is a value of another type or out of range. The keys that one method alone has
stand beside its code, in a subclass of TrainConfig.
"""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

LARGEST_SEED = 10**9  # a step has a seed of its own: this one times a million


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
        counts = ("train_per_category", "val_per_category", "ood_per_category", "iid_per_category")
        check_range(self, "synthetic", 0, None, *counts)
        check_range(self, "synthetic", 0, LARGEST_SEED, "seed")
        check_range(self, "synthetic", 48, 2048, "image_size")


@dataclass(frozen=True, kw_only=True)
class PrepConfig:
    """`ntdm prep-data`. `scale` is s of docs/formats.md: the crop's nominal focal length is 3000 s pixels."""

    image_size: tuple[int, int] = (512, 512)  # H, W
    scale: float = 0.0  # 0: max(H, W) / 640, so that a unit-diagonal object at distance 5 fits
    objects: str = "first"  # NeMo's protocol: the first object of an image, if it has a pose
    compression: str = "none"  # of photos and masks: none reads fastest, gzip and lzf save space

    def __post_init__(self) -> None:
        check_choice(self, "prep", "compression", "none", "lzf", "gzip")
        if self.objects not in ("first", "all"):
            raise ValueError(f"prep objects is {self.objects!r}: want 'first' or 'all'")
        if len(self.image_size) != 2:
            raise ValueError(f"prep image_size is {self.image_size}: want H W")
        check_range(self, "prep", 16, 4096, "image_size")
        check_range(self, "prep", 0, 100, "scale")

    @property
    def resolved_scale(self) -> float:
        return self.scale or max(self.image_size) / 640


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """`ntdm fit-shapes`: template, Psi, and the weights of Eq. 2, its regularisers and the outlines."""

    subdivisions: int = 3  # icosphere: 3 gives 642 vertices, 4 gives 2562
    width: int = 64  # of Psi's network
    layers: int = 4
    frequencies: int = 6  # the paper's 10 alias on 642 vertices
    network_steps: int = 100  # of the network's fit to the meshes
    steps: int = 180  # of the meshes' fit to the CADs, with 642 vertices, and again for each finer template
    learning_rate: float = 1e-2  # farthest that a vertex goes in a step at first, in diagonals
    surface_samples: int = 600  # points drawn from a CAD, and from its Γ, each step; twice as many when finer
    normal_weight: float = 1e-4
    laplacian_weight: float = 3e-3
    outline_weight: float = 1.0
    outline_views: int = 2  # of each CAD, a step
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "shape", 0, 6, "subdivisions")
        check_range(self, "shape", 1, None, "width", "layers", "network_steps", "steps", "surface_samples")
        check_range(self, "shape", 0, 20, "frequencies")
        check_range(self, "shape", 0, 1, "learning_rate")
        check_range(self, "shape", 1, 24, "outline_views")
        check_range(self, "shape", 0, None, "normal_weight", "laplacian_weight", "outline_weight")
        check_range(self, "shape", 0, LARGEST_SEED, "seed")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`ntdm train`: what every method is trained with; a subclass adds the keys of one.

    Attributes:
        family: a table of [train] that several methods share, below each one's own; "" for none.
    """

    family: ClassVar[str] = ""

    method: str
    backbone: str = "tiny"  # or "small" (ntdm, nemo), which sees more around a cell, or "resnet50"
    backbone_weights: str = ""  # a local torchvision ResNet-50 state dict; empty: from scratch
    epochs: int = 14
    batch_size: int = 16
    optimiser: str = "adam"  # or "sgd", with momentum 0.9
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.01  # of the highest, reached at the end
    schedule: str = "cosine"  # or "exponential", the paper's, or "steps"
    decay_every: int = 20  # epochs after each of which "steps" lowers the rate to a tenth
    warmup_steps: int = 100  # over which the rate rises from 0
    weight_decay: float = 0.0
    mirror: bool = True
    augment: float = 0.4  # strength of photometric jitter, 0 is none (the paper's choice)
    turn: float = 0.0  # degrees that a photo is turned by at most; 0 is the paper's choice, here and below
    zoom: float = 0.0  # largest factor of magnifying or reducing it, minus 1
    shift: float = 0.0  # largest shift in x and in y, of its shorter side
    patches: float = 0.8  # share of photos partly covered by others; 0 is the paper's choice
    patch_size: tuple[float, float] = (0.25, 0.7)  # shortest and longest patch, of the photo's sides
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self, "train", "backbone", "tiny", "small", "resnet50")
        check_choice(self, "train", "schedule", "cosine", "exponential", "steps")
        check_choice(self, "train", "optimiser", "adam", "sgd")
        check_range(self, "train", 1, None, "epochs", "batch_size", "decay_every")
        check_range(self, "train", 0, None, "weight_decay", "warmup_steps")
        check_range(self, "train", 0, LARGEST_SEED, "seed")
        check_range(self, "train", 0.01, 2, "patch_size")
        check_range(self, "train", 0, 180, "turn")
        check_range(self, "train", 0, 1, "zoom", "shift", "final_learning_rate", "augment", "patches")
        check_range(self, "train", 1e-12, None, "learning_rate")
        if self.patch_size[0] > self.patch_size[1]:
            raise ValueError(f"train patch_size is {self.patch_size}: want the shorter first")


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Inference of `ntdm evaluate` and `ntdm infer`."""

    azimuths: int = 12
    elevations: tuple[float, ...] = (-30.0, 0.0, 30.0, 60.0)  # degrees
    thetas: tuple[float, ...] = (-30.0, 0.0, 30.0)
    distance: float = 5.0
    latent_start: str = "one-hot"  # every CAD's, or their "average", or a "random" mixture of them
    background_term: bool = True  # false: only foreground cells enter the loss (Table 3)
    clutter_weight: float = 0.02  # kappa
    clutter: str = "mixture"  # of the bank's features; or "nearest", or their "mean" (NeMo's)
    clutter_temperature: float = 0.07  # of the mixture, and of the visible mask's odds; the training loss's
    # Features that the mixture counts as, whatever the bank holds: the larger, the more cells are background.
    clutter_count: float = 128.0
    visible_prior: float = 0.8  # probability that a cell inside the outline is visible, before a look at it
    silhouette: str = "soft"  # or "hard"
    sigma: float = 1.0  # pixels of the feature map
    refined_starts: int = 8  # best starts that are refined; the better one after `screening_steps` goes on
    screening_steps: int = 6
    steps: int = 50
    learning_rate: float = 0.1
    learning_rate_decay: float = 0.2
    decay_every: int = 20
    # Steps without a gain after which a photo's rate falls at once; 0: it waits for decay_every.
    patience: int = 0
    least_gain: float = 1e-4  # of the loss, that counts as one
    class_margin: float = 0.01  # a category whose best start is worse than the best one's by more is dropped
    refine_shape: bool = True
    shape_every: int = 4  # the latent moves on every so many steps,
    shape_after: int = 20  # and not before this one or the second rate: lest it fit a wrong pose
    refine_distance: bool = True
    refine_scale: bool = True
    size_prior: float = 0.2  # weight of log(distance / nominal)^2 + log(s')^2: crops are distance-normalised
    refine_principal_point: bool = False  # fixed under the NeMo protocol, whose crops are centred
    batch_size: int = 32
    seed: int = 0  # of a random latent

    def __post_init__(self) -> None:
        check_choice(self, "infer", "latent_start", "one-hot", "average", "random")
        check_choice(self, "infer", "clutter", "mixture", "nearest", "mean")
        check_choice(self, "infer", "silhouette", "soft", "hard")
        if not self.elevations or not self.thetas:
            raise ValueError("infer elevations or thetas is empty: want one angle or more, in degrees")
        counts = ("azimuths", "refined_starts", "shape_every", "decay_every", "batch_size")
        check_range(self, "infer", 1, None, *counts)
        check_range(self, "infer", -180, 180, "elevations", "thetas")
        check_range(self, "infer", 0, None, "screening_steps", "steps", "shape_after", "size_prior")
        check_range(self, "infer", 0, None, "patience", "least_gain", "class_margin")
        check_range(self, "infer", 0, 1, "learning_rate", "learning_rate_decay", "clutter_weight")
        check_range(self, "infer", 0.01, 0.99, "visible_prior")
        check_range(self, "infer", 1e-3, None, "distance", "sigma", "clutter_temperature", "clutter_count")
        check_range(self, "infer", 0, LARGEST_SEED, "seed")


def check_range(config: Any, stage: str, low: float, high: float | None, *keys: str) -> None:
    """ValueError naming a key that is, or has an entry, nan or outside low..high (None: no bound)."""
    for key in keys:
        value = getattr(config, key)
        entries = value if isinstance(value, tuple) else (value,)
        if not all(low <= entry <= (sys.float_info.max if high is None else high) for entry in entries):
            bounds = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise ValueError(f"{stage} {key} is {value!r}: want {bounds}")


def check_choice(config: Any, stage: str, key: str, *allowed: str) -> None:
    """ValueError naming a key that is none of the texts allowed."""
    if getattr(config, key) not in allowed:
        raise ValueError(f"{stage} {key} is {getattr(config, key)!r}: want {' or '.join(allowed)}")
