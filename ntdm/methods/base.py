"""What a method is to the stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntdm.config.stages import InferConfig, TrainConfig
from ntdm.nn.base import Model, Predict


@dataclass(frozen=True)
class Method:
    """How a method comes to its model, and its model to predictions.

    Attributes:
        build: untrained model of config, category names and shapes by category.
        predictor: what answers for a trained model, given inference config, image size [H, W] and the nominal
            focal length in crop pixels.
        joint: whether the processes of torchrun can train it together.
        shapes: what the model is built around, an object a category: "" nothing, "fitted" what fit-shapes
            wrote, "cads" cuboids around the CADs of the caches.
        describe: such an object as JSON, for config.json.
        restore: the same, untrained, from that and the file's name.
    """

    build: Callable[[TrainConfig, Sequence[str], Mapping[str, Any]], Model]
    predictor: Callable[[Any, InferConfig, tuple[int, int], float], Predict]
    joint: bool = False
    shapes: str = ""
    describe: Callable[[Any], dict[str, Any]] = lambda shape: {}
    restore: Callable[[Mapping[str, Any], str], Any] = lambda values, source: None
