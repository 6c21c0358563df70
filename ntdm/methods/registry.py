"""The methods that can be trained and evaluated, by the name they have on the command line and in the tables.

How one is added: docs/methods.md.
"""

from typing import Any

from ntdm.config.stages import InferConfig
from ntdm.methods.base import Method
from ntdm.methods.classifier import Classifier
from ntdm.methods.cuboid import _describe_cuboid, _restore_cuboid
from ntdm.methods.mask_rcnn import MaskRCNN
from ntdm.methods.nemo import NeMo, NeMoPredictor
from ntdm.methods.ntdm import NTDM, NTDMPredictor, _describe_shape, _restore_shape
from ntdm.nn.base import Predict


def _answers_itself(model: Any, config: InferConfig, image_size: tuple[int, int], focal: float) -> Predict:
    """A feed-forward model's predictor: nothing of the inference config applies to it."""
    return model.predict


_CLASSIFIER = Method(lambda config, names, _: Classifier(config, names), _answers_itself, joint=True)
METHODS: dict[str, Method] = {
    "ntdm": Method(
        lambda config, _, shapes: NTDM(config, shapes),
        NTDMPredictor,
        joint=True,
        shapes="fitted",
        describe=_describe_shape,
        restore=_restore_shape,
    ),
    "nemo": Method(
        lambda config, _, shapes: NeMo(config, shapes),
        NeMoPredictor,
        shapes="cads",
        describe=_describe_cuboid,
        restore=_restore_cuboid,
    ),
    "mask-rcnn": Method(lambda config, names, _: MaskRCNN(config, names), _answers_itself),
    "pose-classifier": _CLASSIFIER,
    "res50-pose": _CLASSIFIER,
    "res50-class": _CLASSIFIER,
}
