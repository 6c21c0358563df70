"""What a method is to the stages."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntdm.config.reading import to_dict
from ntdm.config.stages import InferConfig, TrainConfig
from ntdm.io.cache_split import CacheSplit
from ntdm.io.run_folder import check_kinds
from ntdm.nn.base import Model, Predict
from ntdm.nn.deformable_mesh import DeformableMesh, read_config
from ntdm.shapes.files import load_shape


@dataclass(frozen=True)
class Shapes:
    """What the models of a method are built around, an object a category.

    Attributes:
        gather: those of a training, by category, given its config, cache files and the folder that fit-shapes
            wrote.
        describe: one of them as JSON, for config.json.
        restore: the same, untrained, from that and the name of the file it stands in; ValueError says what is
            wrong with it.
    """

    gather: Callable[[Any, CacheSplit, Path], dict[str, Any]]
    describe: Callable[[Any], dict[str, Any]]
    restore: Callable[[Mapping[str, Any], str], Any]


def _fitted(config: TrainConfig, split: CacheSplit, folder: Path) -> dict[str, DeformableMesh]:
    """The shapes of the caches' categories, whose latents the caches hold."""
    split.require_latents()
    fitted = {name: load_shape(folder / f"{name}.safetensors") for name in split.categories}
    for header in split.headers:
        count = fitted[header.path.stem].num_latents
        if header.num_latents != count:
            raise ValueError(
                f"{header.path} has latents of {header.num_latents} entries, {folder} a shape of "
                f"{count}: train with the shapes that fit-shapes made from this cache, or run it again"
            )
    return fitted


def _describe_fitted(shape: DeformableMesh) -> dict[str, Any]:
    digest = hashlib.sha256()  # lest a run goes on with refitted shapes
    for name, value in sorted(shape.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return {
        "config": to_dict(shape.config), "num_latents": shape.num_latents, "digest": digest.hexdigest()[:16],
    }  # fmt: skip


def _restore_fitted(values: Mapping[str, Any], source: str) -> DeformableMesh:
    check_kinds(values, {"config": dict, "num_latents": int}, source)
    return DeformableMesh(read_config(values["config"], source), values["num_latents"])


NO_SHAPES = Shapes(lambda config, split, folder: {}, lambda shape: {}, lambda values, source: None)
FITTED_SHAPES = Shapes(_fitted, _describe_fitted, _restore_fitted)


def feed_forward(model: Any, config: InferConfig, image_size: tuple[int, int], focal: float) -> Predict:
    """The predictor of a model that answers by itself: nothing of the inference config applies to it."""
    return model.predict


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a method comes to its model, and its model to predictions.

    Attributes:
        name: on the command line, in configuration files and in tables.
        config: the class of its training configuration.
        build: untrained model of such a configuration, category names and shapes by category.
        predictor: what answers for a trained model, given inference config, image size [H, W] and the nominal
            focal length in crop pixels.
        shapes: what the model is built around.
        joint: whether the processes of torchrun can train it together.
    """

    name: str
    config: type[TrainConfig]
    build: Callable[[Any, Sequence[str], Mapping[str, Any]], Model]
    predictor: Callable[[Any, InferConfig, tuple[int, int], float], Predict] = feed_forward
    shapes: Shapes = NO_SHAPES
    joint: bool = False
