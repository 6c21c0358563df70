"""Run folders as `ntdm train` leaves them: the model, and what config.json says of it (docs/formats.md)."""

import dataclasses
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from ntdm.config.reading import from_dict
from ntdm.config.stages import TrainConfig
from ntdm.io.run_folder import DESCRIPTION, RunFolder
from ntdm.methods.registry import METHODS
from ntdm.nn.base import MissingPackageError, Model


def load(run_folder: Path, device: str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the description in its config.json; ValueError says what is wrong."""
    folder = RunFolder(run_folder)
    described, weights = folder.config, folder.weights
    if not described.exists():
        raise ValueError(
            f"{run_folder} is not a run folder: {described.name} is missing; `ntdm train` writes it"
        )
    description = folder.description()
    if description.get("schema") == "ntdm-external":
        raise ValueError(f"{run_folder} holds imported predictions and no model; `ntdm report` reads those")
    if not weights.exists():
        raise ValueError(
            f"{weights} is missing: the training did not finish; run the same `ntdm train` again"
        )
    for key, kind in DESCRIPTION.items():
        if not isinstance(description.get(key), kind):
            raise ValueError(f"{described}: {key} is {description.get(key)!r}; train again with --overwrite")
    size = description["image_size"]
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{described}: image_size is {size!r}, want [H, W]; train again with --overwrite")
    if not (description["nominal_focal"] > 0 and description["typical_box"] > 0):
        raise ValueError(
            f"{described}: nominal_focal or typical_box is not positive; train again with --overwrite"
        )
    try:
        config = from_dict(TrainConfig, description["train"], str(described))
        method = METHODS[config.method]
        shapes = {c: method.restore(s, str(described)) for c, s in description["shapes"].items()}
        config = dataclasses.replace(config, backbone_weights="")
        model = method.build(config, description["categories"], shapes)
        model.load_state_dict(safetensors.torch.load_file(weights))
    except MissingPackageError:  # nothing is wrong with the run
        raise
    except RuntimeError:  # torch's own names every tensor of the model
        raise ValueError(
            f"{weights} holds another model than {described} describes; train again with --overwrite"
        ) from None
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"{weights} does not fit {described}: {said}; train again with --overwrite"
        ) from None
    broken = [k for k, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ValueError(
            f"{weights}: tensor {broken[0]} holds values that are not finite; train again with --overwrite"
        )
    return model.requires_grad_(False).eval().to(device), description
