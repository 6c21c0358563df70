"""The import direction and the one door of each library, read off the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a folder imports itself and what stands on a line above its own, nothing else.
FLOORS = (
    ("ntdm.config",),
    ("ntdm.io",),
    ("ntdm.geometry",),
    ("ntdm.ops", "ntdm.data", "ntdm.reports"),
    ("ntdm.nn", "ntdm.viz", "ntdm.data_prep"),
    ("ntdm.render_and_compare", "ntdm.shapes"),
    ("ntdm.methods",),
    ("ntdm.training", "ntdm.evaluation"),
    ("ntdm",),  # the commands and the public interface
    ("ntdm.cli",),
)
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
DOORS = {
    "kaolin": {"ntdm.ops.rasterize_kaolin", "ntdm.shapes.nearest_faces"},
    "open3d": {"ntdm.shapes.visible_surface", "ntdm.shapes.nearest_faces"},
    "h5py": {
        "ntdm.io.cache",
        "ntdm.io.cache_schema",
        "ntdm.io.predictions",
        "ntdm.io.prediction_writer",
        "ntdm.io.outputs",
    },
    "matplotlib": {
        "ntdm.reports.diagnostics",
        "ntdm.reports.estimates",
        "ntdm.reports.figures",
        "ntdm.estimate",  # the type of what plot() gives
    },
    "pandas": {
        "ntdm.reports.figures",
        "ntdm.reports.frames",
        "ntdm.reports.measures",
        "ntdm.reports.page",
        "ntdm.reports.runs",
        "ntdm.reports.tables",
        "ntdm.reports.typeset",
    },
    "pycocotools": {"ntdm.export"},
    "torchvision": {"ntdm.methods.mask_rcnn"},
    "typer": {"ntdm.cli", "ntdm.cli_options"},
    "rich": {"ntdm.io.progress"},
    "pillow_heif": {"ntdm.io.photo"},
    "ctypes": {"ntdm.ops.kernels"},
}
FORBIDDEN = {"timm", "joblib", "marshal", "shelve", "dill"}


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
    """Names that a module imports anywhere in it; `from ntdm.io import cache` counts as ntdm.io.cache."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: relative import; write ntdm.…"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def folder(module: str) -> str:
    """The folder of FLOORS that a module lies in."""
    name = module
    while name not in FLOOR:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    here = folder(module)
    wrong = [
        name
        for name in imports(module)
        if name.startswith("ntdm.") and folder(name) != here and FLOOR[folder(name)] >= FLOOR[here]
    ]
    assert not wrong, f"{module} ({here}) imports {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_one_library_one_door(module: str) -> None:
    for name in imports(module):
        library = name.split(".")[0]
        assert library not in FORBIDDEN, f"{module} imports {name}"
        assert library not in {"data_prep", "reports", "cli", "cuda"}, f"{module}: import it as ntdm.{name}"
        assert module in DOORS.get(library, {module}), (
            f"{module} imports {name}: its door is {DOORS[library]}"
        )


@pytest.mark.parametrize("library", DOORS)
def test_every_door_is_used(library: str) -> None:
    used = {module for module in MODULES if library in {name.split(".")[0] for name in imports(module)}}
    assert used == DOORS[library]


def test_reports_never_reach_torch() -> None:
    """Neither directly nor through a module of ntdm, so that `ntdm report` is quick."""
    seen: set[str] = set()
    todo = [module for module in MODULES if folder(module) == "ntdm.reports"]
    while todo:
        module = todo.pop()
        seen.add(module)
        names = set(imports(module)) - {"ntdm"}
        assert not any(name.split(".")[0] == "torch" for name in names), f"{module} imports torch"
        todo += [name for name in names if name in MODULES and name not in seen]


def test_the_importing_direction_has_no_cycle() -> None:
    # `import ntdm` brings the version and names that are imported when they are used: no arrow.
    graph = {
        module: {name for name in imports(module) if name in MODULES} - {module, "ntdm"} for module in MODULES
    }
    while graph:
        leaves = [module for module, names in graph.items() if not names & graph.keys()]
        assert leaves, f"these import one another: {sorted(graph)}"
        for leaf in leaves:
            del graph[leaf]


def unsafe(source: str) -> list[str]:
    """What swallows an error, or could run what a file holds: a sentence each, beginning with the line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: bare except")
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.startswith("pickle.") and name != "pickle.UnpicklingError":
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.ImportFrom) and (
            node.module == "pickle" or (node.module == "torch" and "load" in [a.name for a in node.names])
        ):
            found.append(f"{node.lineno}: from {node.module}")
        if isinstance(node, ast.Import):
            hidden = [a.name for a in node.names if a.name in ("pickle", "torch") and a.asname]
            found += [f"{node.lineno}: {name} under another name" for name in hidden]
        if isinstance(node, ast.Call):
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            loads = ast.unparse(node.func) == "torch.load"
            if (loads or "weights_only" in given) and given.get("weights_only") is not True:
                found.append(f"{node.lineno}: weights_only is not True")
            if given.get("allow_pickle", False) is not False:
                found.append(f"{node.lineno}: allow_pickle is not False")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_swallowed_or_unpickled(module: str) -> None:
    assert not unsafe(MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "safe"),
    [
        ("torch.load(path, weights_only=True)", True),
        ("torch.load(path)", False),
        ("torch.load(path, weights_only=False)", False),
        ("torch.load(path, weights_only=flag)", False),
        ("torch.load(path, **options)", False),
        ("from torch import load", False),
        ("import torch as t", False),
        ("np.load(path, allow_pickle=False)", True),
        ("np.load(path, allow_pickle=True)", False),
        ("np.load(path, allow_pickle=flag)", False),
        ("pickle.loads(text)", False),
        ("import pickle as p", False),
        ("try:\n    f()\nexcept pickle.UnpicklingError:\n    g()", True),
        ("try:\n    f()\nexcept:\n    g()", False),
    ],
)
def test_what_counts_as_unsafe(source: str, safe: bool) -> None:
    assert (unsafe(source) == []) == safe
