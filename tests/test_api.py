"""The public names, frozen: tests/api_surface.json says what others may rely on."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ntdm

SURFACE = Path(__file__).with_name("api_surface.json")


def surface() -> dict[str, Any]:
    """Every public name: a signature, the public names of a class or module, or the kind of the value."""
    return {name: described(getattr(ntdm, name)) for name in sorted(ntdm.__all__)}


def described(value: Any) -> Any:
    if hasattr(value, "__all__"):
        return sorted(value.__all__)
    if inspect.ismodule(value):
        return sorted(
            name
            for name, member in vars(value).items()
            if not name.startswith("_") and str(getattr(member, "__module__", "")).startswith(value.__name__)
        )
    if inspect.isclass(value):
        fields = {name for name in dir(value) if not name.startswith("_")} - set(dir(tuple))
        return sorted(fields | set(getattr(value, "__annotations__", {})))
    return str(inspect.signature(value)) if callable(value) else type(value).__name__


def test_public_names_are_those_that_are_stored() -> None:
    # After a change that is meant: python tests/test_api.py
    assert surface() == json.loads(SURFACE.read_text(encoding="utf-8"))


def test_import_costs_no_torch() -> None:
    heavy = "{'torch', 'numpy', 'matplotlib', 'pandas'}"
    code = f"import sys, ntdm; print(sorted({heavy} & set(sys.modules)), dir(ntdm))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ['CacheFile', 'Estimate'")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'ntdm' has no attribute 'texture'"):
        _ = ntdm.texture


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
