"""Files of fitted shapes (docs/formats.md): Γ's weights with their description, and latents of other CADs.

<category>.safetensors, <category>.json   Γ, and how it was fitted
latents/<category>.json                   latents of CADs that Γ was not fitted to
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from ntdm.config.reading import to_dict
from ntdm.io.outputs import atomic_path
from ntdm.nn.deformable_mesh import DeformableMesh, read_config

SCHEMA = "ntdm-shape"
SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)  # 1 had no offsets: they were 0
LATENTS_SCHEMA, LATENTS_SCHEMA_VERSION = "ntdm-latents", 1


def save_shape(path: Path, model: DeformableMesh, meta: dict[str, Any]) -> Path:
    """Write a shape file and the description beside it.

    Args:
        path: of the weights; the description gets the suffix .json.
        model: Γ, on any device.
        meta: what else the description records, ready for JSON.

    Returns:
        path.
    """
    description = path.with_suffix(".json")
    # The description is the sign of a whole pair: an old one must not survive beside new weights.
    description.unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as part:
        part.write_bytes(safetensors.torch.save(tensors))
    content = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "config": to_dict(model.config),
        "num_latents": model.num_latents,
        **meta,
    }
    _write_json(description, content)
    return path


def is_whole(path: Path) -> bool:
    """Whether a shape file and its description are both there."""
    return path.exists() and path.with_suffix(".json").exists()


def read_meta(path: Path) -> dict[str, Any]:
    """The description beside a shape file: schema, config, num_latents and what fit-shapes recorded.

    Raises:
        ValueError: it is missing, not ntdm's, or of another schema version; the file is named.
    """
    description = path.with_suffix(".json")
    try:
        meta = json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"shape description {description} does not exist: run `ntdm fit-shapes`") from None
    except ValueError as error:
        raise ValueError(
            f"shape description {description} is not JSON ({error}): fit the shape again"
        ) from None
    schema = (meta.get("schema"), meta.get("schema_version")) if isinstance(meta, dict) else None
    if schema not in [(SCHEMA, version) for version in READ_VERSIONS]:
        raise ValueError(f"{description} has schema {schema}: this version reads {SCHEMA} {READ_VERSIONS}")
    return meta


def load_shape(path: Path) -> DeformableMesh:
    """A fitted Γ, on the CPU, frozen (no weight needs a gradient) and in eval mode.

    Raises:
        ValueError: a file is missing, or weights and description do not belong together; the file is named.
    """
    meta = read_meta(path)
    try:
        model = DeformableMesh(read_config(meta["config"], str(path)), meta["num_latents"])
        model.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise ValueError(f"shape file {path} does not exist: run `ntdm fit-shapes`") from None
    except (KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"shape file {path} does not match its description ({error}): fit it again"
        ) from None
    return model.requires_grad_(False).eval()


def save_latents(
    path: Path,
    category: str,
    made_with: Mapping[str, Any],
    cad_index: Sequence[int],
    latents: np.ndarray,
    meta: Mapping[str, Any],
) -> Path:
    """Write the latents of N CADs of one category.

    Args:
        path: the .json.
        category: of the CADs.
        made_with: what decides the latents, ready for JSON.
        cad_index: [N] of the CADs.
        latents: [N, K].
        meta: what else the file records, ready for JSON.

    Returns:
        path.
    """
    content = {
        "schema": LATENTS_SCHEMA,
        "schema_version": LATENTS_SCHEMA_VERSION,
        "category": category,
        "made_with": made_with,
        "latents": {str(k): row for k, row in zip(cad_index, latents.tolist(), strict=True)},
        **meta,
    }
    _write_json(path, content)
    return path


def read_latents(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What the latents in a file were made with, and the latents f32 [N, K].

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made_with, rows = content["made_with"], np.array(list(content["latents"].values()), np.float32)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged(path) from None
    return made_with, rows


def damaged(path: Path) -> ValueError:
    """The error about a file of latents that does not hold what it should."""
    return ValueError(f"{path} is damaged: pass --overwrite to make it again")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
