"""Shape files (docs/formats.md)."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from ntdm.config.reading import to_dict
from ntdm.io.outputs import atomic_path
from ntdm.nn.deformable_mesh import DeformableMesh, read_config

SCHEMA = "ntdm-shape"
SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)  # 1 had no offsets: they were 0


def save_shape(path: Path, model: DeformableMesh, meta: dict[str, Any]) -> Path:
    """Write the weights to `path` and, last, config, K and `meta` to the .json beside it; returns path."""
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
    with atomic_path(description) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read_meta(path: Path) -> dict[str, Any]:
    """The description beside a shape file: schema, config, num_latents and what fit-shapes recorded.

    ValueError names the file when it is missing, not ours, or of another schema version.
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
    found = (meta.get("schema"), meta.get("schema_version")) if isinstance(meta, dict) else None
    if found not in [(SCHEMA, version) for version in READ_VERSIONS]:
        raise ValueError(f"{description} has schema {found}: this version reads {SCHEMA} {READ_VERSIONS}")
    return meta


def load_shape(path: Path) -> DeformableMesh:
    """A fitted Γ, frozen (no weight needs a gradient) and in eval mode; ValueError names what is wrong."""
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
