"""The public names, frozen: tests/api_surface.json says what others may rely on."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ntdm

OPERATORS = ("__call__", "__contains__", "__getitem__", "__len__")
SURFACE = Path(__file__).with_name("api_surface.json")


def surface() -> dict[str, Any]:
    """Every public name: a signature, the members of a class or module, or the type of the value."""
    return {name: described(getattr(ntdm, name)) for name in sorted(ntdm.__all__)}


def described(value: Any) -> Any:
    if inspect.ismodule(value):
        inner = (name for name, member in vars(value).items() if lies_in(member, value.__name__))
        names = sorted(getattr(value, "__all__", inner))
        return {name: described(getattr(value, name)) for name in names if not name.startswith("_")}
    if inspect.isclass(value):
        return members(value)
    return signature(node_of(value)) if callable(value) else type(value).__name__


def lies_in(member: Any, module: str) -> bool:
    return str(getattr(member, "__module__", "")).startswith(module)


def node_of(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def signature(node: ast.FunctionDef) -> str:
    """As it is written: what types look like at run time depends on the versions of Python and NumPy."""
    return f"({ast.unparse(node.args)}) -> {node.returns and ast.unparse(node.returns)}"


def members(cls: type) -> dict[str, Any]:
    """Types of the attributes, and signatures of the methods, those that operators call among them."""
    found: dict[str, Any] = {}
    for node in node_of(cls).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if "overload" in marks:
                found.setdefault(node.name, []).append(signature(node))
            elif node.name not in found:
                found[node.name] = ast.unparse(node.returns) if "property" in marks else signature(node)
    return {name: found[name] for name in sorted(found) if name in OPERATORS or not name.startswith("_")}


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
