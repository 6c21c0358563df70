"""Run folders as `ntdm train` leaves them: the model, and what config.json says of it (docs/formats.md)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from ntdm.config.reading import from_dict, without_other_methods
from ntdm.io.run_folder import READ_VERSIONS, SCHEMA, SCHEMA_VERSION, RunFolder, check_kinds
from ntdm.methods.registry import METHODS, config_classes
from ntdm.nn.base import MissingPackageError, Model

KINDS: dict[str, type | tuple[type, ...]] = {  # what of config.json the model and its evaluation need
    "method": str, "train": dict, "categories": list, "image_size": list, "nominal_focal": (float, int),
    "typical_box": (float, int), "shapes": dict,
}  # fmt: skip


def read_description(folder: RunFolder) -> dict[str, Any]:
    """What config.json says of a training, in today's form.

    Under "train", version 1 had the keys of all methods; those of other methods than the run's are left out.

    Raises:
        ValueError: no JSON object, or one of a later version.
    """
    description = folder.description()
    version, train = description.get("schema_version"), description.get("train")
    if description.get("schema") == SCHEMA and version not in READ_VERSIONS:
        raise ValueError(
            f"{folder.config} has schema version {version!r}, this ntdm reads {READ_VERSIONS}: use "
            "the ntdm that wrote it, or train again with --overwrite"
        )
    classes = config_classes()
    if version == 1 and isinstance(train, dict) and str(train.get("method")) in classes:
        train = without_other_methods(classes, classes[train["method"]], train)
        description |= {"schema_version": SCHEMA_VERSION, "train": train}
    return description


def load(run_folder: Path, device: str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the description in its config.json; ValueError says what is wrong."""
    folder = RunFolder(run_folder)
    description = _checked_description(folder)
    model = _build(folder, description)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder.weights))
    except RuntimeError:  # torch's own names every tensor of the model
        raise ValueError(
            f"{folder.weights} holds another model than {folder.config} describes; train again with "
            "--overwrite"
        ) from None
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{folder.weights} holds no weights that can be read ({error}); train again with --overwrite"
        ) from None
    broken = [k for k, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ValueError(
            f"{folder.weights}: tensor {broken[0]} holds values that are not finite; train again with "
            "--overwrite"
        )
    return model.requires_grad_(False).eval().to(device), description


def _checked_description(folder: RunFolder) -> dict[str, Any]:
    """The description of a finished training, with all that is needed of it."""
    path = folder.config
    if not path.exists():
        raise ValueError(f"{folder.path} is not a run folder: {path.name} is missing; `ntdm train` writes it")
    description = read_description(folder)
    if description.get("schema") == "ntdm-external":
        raise ValueError(f"{folder.path} holds imported predictions and no model; `ntdm report` reads those")
    if not folder.weights.exists():
        raise ValueError(
            f"{folder.weights} is missing: the training did not finish; run the same `ntdm train` again"
        )
    check_kinds(description, KINDS, str(path))
    size, names, shapes = description["image_size"], description["categories"], description["shapes"]
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{path}: image_size is {size!r}, want [H, W]; train again with --overwrite")
    if not (description["nominal_focal"] > 0 and description["typical_box"] > 0):
        raise ValueError(
            f"{path}: nominal_focal or typical_box is not positive; train again with --overwrite"
        )
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: categories is {names!r}, want names; train again with --overwrite")
    if shapes and (set(shapes) != set(names) or not all(isinstance(s, dict) for s in shapes.values())):
        raise ValueError(f"{path}: shapes is not one object a category; train again with --overwrite")
    method = description["train"].get("method")
    if str(method) not in METHODS:
        raise ValueError(
            f"{path}: train.method is {method!r}, want {' or '.join(METHODS)}; train again with --overwrite"
        )
    return description


def _build(folder: RunFolder, description: dict[str, Any]) -> Model:
    """The untrained model that config.json describes."""
    source, method = str(folder.config), METHODS[description["train"]["method"]]
    try:
        config = replace(from_dict(method.config, description["train"], source), backbone_weights="")
        shapes = {c: method.shapes.restore(s, source) for c, s in description["shapes"].items()}
        return method.build(config, description["categories"], shapes)
    except MissingPackageError:  # nothing is wrong with the run
        raise
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch cannot hold a model of such sizes
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{source} describes no model: {reason}; train again with --overwrite") from error
