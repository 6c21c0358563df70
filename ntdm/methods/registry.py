"""The methods that can be trained and evaluated, by the name they have on the command line and in the tables.

How one is added: docs/methods.md.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntdm.config.stages import InferConfig, TrainConfig, to_dict
from ntdm.methods.classifier import Classifier
from ntdm.methods.cuboid import Cuboid
from ntdm.methods.mask_rcnn import MaskRCNN
from ntdm.methods.nemo import NeMo, NeMoPredictor
from ntdm.methods.ntdm import NTDM
from ntdm.nn.base import Guess, Model, Predict
from ntdm.nn.deformable_mesh import DeformableMesh, read_config
from ntdm.render_and_compare.encode import encode
from ntdm.render_and_compare.solver import Solver, fit_categories


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
        describe: such an object as JSON, for config.json; restore: the same, untrained, from that and the
            file's name.
    """

    build: Callable[[TrainConfig, Sequence[str], Mapping[str, Any]], Model]
    predictor: Callable[[Any, InferConfig, tuple[int, int], float], Predict]
    joint: bool = False
    shapes: str = ""
    describe: Callable[[Any], dict[str, Any]] = lambda shape: {}
    restore: Callable[[Mapping[str, Any], str], Any] = lambda values, source: None


class NTDMPredictor:
    """Fits every photo under its own category and all that it may show; the lowest loss names the class."""

    def __init__(self, model: NTDM, config: InferConfig, image_size: tuple[int, int], focal: float) -> None:
        self.model, self.config = model, config
        self.solvers = [Solver(model, c, config, image_size, focal) for c in range(len(model.categories))]

    def __call__(self, photo: Tensor, category: Sequence[int]) -> Guess:
        """Pose, masks, shape and class of uint8 photos [N, 3, H, W]."""
        photos, own = encode(self.model, photo, self.config), torch.tensor(category, device=photo.device)
        losses, fits = fit_categories(self.solvers, photos, own)
        lowest, best = losses.min(1)
        count, numbers = len(photo), losses.new_zeros
        viewpoint, free_viewpoint, scale = numbers(count, 4), numbers(count, 4), numbers(count)
        latent = losses.new_full((count, max(self.model.num_latents)), torch.nan)
        amodal = torch.zeros(count, *photo.shape[2:], dtype=torch.bool, device=photo.device)
        visible, amodal_free = amodal.clone(), amodal.clone()
        for c, (rows, solution) in enumerate(fits):
            seen, shown = self.solvers[c].masks(solution, photos.of(rows))
            mine, free = own[rows] == c, best[rows] == c
            for whole, found in (
                (viewpoint, solution.viewpoint),
                (latent[:, : self.model.num_latents[c]], solution.latent),
                (scale, solution.scale),
                (amodal, seen),
                (visible, shown),
            ):
                whole[rows[mine]] = found[mine]
            free_viewpoint[rows[free]], amodal_free[rows[free]] = solution.viewpoint[free], seen[free]
        return Guess(
            viewpoint=viewpoint,
            free_viewpoint=free_viewpoint,
            category=best,
            score=1 - lowest,
            amodal=amodal,
            visible=visible,
            amodal_free=amodal_free,
            latent=latent,
            scale=scale,
        )


def _describe_shape(shape: DeformableMesh) -> dict[str, Any]:
    digest = hashlib.sha256()  # lest a run goes on with refitted shapes
    for name, value in sorted(shape.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return {
        "config": to_dict(shape.config), "num_latents": shape.num_latents, "digest": digest.hexdigest()[:16],
    }  # fmt: skip


def _restore_shape(values: Mapping[str, Any], source: str) -> DeformableMesh:
    return DeformableMesh(read_config(values["config"], source), values["num_latents"])


def _describe_cuboid(cuboid: Cuboid) -> dict[str, Any]:
    return {"low": list(cuboid.low), "high": list(cuboid.high), "vertices": cuboid.wanted}


def _restore_cuboid(values: Mapping[str, Any], source: str) -> Cuboid:
    return Cuboid(values["low"], values["high"], values["vertices"])


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
