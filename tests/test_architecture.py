"""The import direction and the one door of each library, read off the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"ntdm.inspect", "ntdm.shape_fit", "ntdm.train", "ntdm.infer", "ntdm.evaluate", "ntdm.export"}
FILES = {"ntdm.cache", "ntdm.predictions", "ntdm.sample_dataset", "ntdm.scoring"}
DOORS = {
    "kaolin": {"ntdm.rasterize_kaolin", "ntdm.shape_fit"},
    "open3d": {"ntdm.surface"},
    "h5py": {"ntdm.cache", "ntdm.predictions", "ntdm.outputs"},
    "matplotlib": {"ntdm.reports.figures"},
    "pycocotools": {"ntdm.export"},
    "typer": {"ntdm.cli"},
    "rich": {"ntdm.progress", "ntdm.cli"},
    "ctypes": {
        "ntdm.native",
        "ntdm.launch",
        "ntdm.rasterize_ops",
        "ntdm.uv_scatter",
        "ntdm.texture_lookup",
        "ntdm.texture_update",
    },
}
FORBIDDEN = {"torchvision", "timm", "joblib", "marshal", "shelve", "dill"}


def module_files() -> dict[str, Path]:
    """Every module of the product by its import name, as pyproject.toml maps it."""
    found = {"ntdm.cli": ROOT / "cli.py"}
    for folder, package in (("ntdm", "ntdm"), ("data_prep", "ntdm.data_prep"), ("reports", "ntdm.reports")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = module_files()


def imports(module: str) -> Iterator[str]:
    """Names that a module imports anywhere in it; `from ntdm import camera` counts as ntdm.camera."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: relative import; write ntdm.…"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def room(module: str) -> str:
    for prefix in ("ntdm.cli", "ntdm.data_prep", "ntdm.reports"):
        if module == prefix or module.startswith(prefix + "."):
            return prefix
    if module in STAGES or module == "ntdm.doctor":
        return "stage"
    return "file" if module in FILES else "part"


MAY_IMPORT = {
    "ntdm.cli": {"ntdm.data_prep", "ntdm.reports", "stage", "file", "part"},
    "ntdm.data_prep": {"ntdm.data_prep", "file", "part"},
    "ntdm.reports": {"ntdm.reports", "file", "part"},
    "stage": {"stage", "file", "part"},
    "file": {"file", "part"},
    "part": {"part"},
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    allowed = MAY_IMPORT[room(module)]
    wrong = [name for name in imports(module) if name.split(".")[0] == "ntdm" and room(name) not in allowed]
    assert not wrong, f"{module} ({room(module)}) imports {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_one_library_one_door(module: str) -> None:
    for name in imports(module):
        library = name.split(".")[0]
        assert library not in FORBIDDEN, f"{module} imports {name}"
        assert library not in {"data_prep", "reports", "cli", "cuda"}, f"{module}: import it as ntdm.{name}"
        assert module in DOORS.get(library, {module}), (
            f"{module} imports {name}: its door is {DOORS[library]}"
        )


def test_reports_never_reach_torch() -> None:
    """Neither directly nor through a module of ntdm, so that `ntdm report` is quick."""
    seen: set[str] = set()
    todo = [module for module in MODULES if room(module) == "ntdm.reports"]
    while todo:
        module = todo.pop()
        seen.add(module)
        names = set(imports(module))
        assert not any(name.split(".")[0] == "torch" for name in names), f"{module} imports torch"
        todo += [name for name in names if name in MODULES and name not in seen]


def test_the_importing_direction_has_no_cycle() -> None:
    graph = {module: {name for name in imports(module) if name in MODULES} - {module} for module in MODULES}
    while graph:
        leaves = [module for module, names in graph.items() if not names & graph.keys()]
        assert leaves, f"these import one another: {sorted(graph)}"
        for leaf in leaves:
            del graph[leaf]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_swallowed_or_unpickled(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}, line {node.lineno}: bare except"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
            assert node.attr == "UnpicklingError", f"{module}, line {node.lineno}: pickle.{node.attr}"
        assert not (isinstance(node, ast.ImportFrom) and node.module == "pickle"), (
            f"{module}, line {node.lineno}"
        )
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg in ("allow_pickle", "weights_only"):
                safe = keyword.arg == "weights_only"
                value = getattr(keyword.value, "value", None)
                assert value is safe, f"{module}, line {node.lineno}: {keyword.arg}={value}"
