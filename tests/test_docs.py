"""Documents and comments name files, functions and links that are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
SOURCES = [
    path
    for folder in ("ntdm", "data_prep", "reports", "cuda", "benchmarks", "examples", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".toml", ".cpp", ".cu", ".h", ".sh")
]
FOLDERS = r"(?:ntdm|data_prep|reports|cuda|benchmarks|examples|tests|docs)"
PATH = re.compile(rf"(?<![\w./<-]){FOLDERS}/[\w/.-]*\.(?:py|cpp|cu|h|toml|sh|md|json|png|ipynb|csv)\b")
NAME = re.compile(r"(?<![\w/.>*])[a-z0-9]\w*\.(?:py|cpp|cu)\b")  # in words, without its folder
EQUATION = re.compile(rf"`({FOLDERS}/[\w/]+\.py):([\w.]+)`")
OF_OTHER_TREES = ("CHANGELOG.md", "test_docs.py", "test_packaging.py")  # of earlier versions, of a wheel
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """The anchors that a renderer gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower()) for heading in headings)
    return {f"#{word.strip().replace(' ', '-')}" for word in words}


def defined(path: Path) -> set[str]:
    """Names of a module's functions and classes, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return names


@pytest.mark.parametrize(
    "path", [p for p in (*DOCUMENTS, *SOURCES) if p.name not in OF_OTHER_TREES], ids=relative
)
def test_files_that_are_named_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = {name for name in PATH.findall(text) if not (ROOT / name).exists()}
    if path.suffix in (".md", ".py") and "tests" not in path.parts:
        there = {source.name for source in (*SOURCES, *ROOT.glob("*.py"))}
        missing |= {name for name in NAME.findall(text) if name not in there}
    assert sorted(name for name in missing if "NAME" not in name) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = (document.parent / target).resolve()
        assert path.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{document.name}: {target}{anchor}"


def test_every_function_of_an_equation_is_defined() -> None:
    named = EQUATION.findall((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [f"{path}:{name}" for path, name in named if name not in defined(ROOT / path)] == []


def test_every_switch_back_to_the_paper_is_a_key() -> None:
    from ntdm.config.stages import InferConfig, ShapeConfig
    from ntdm.methods.registry import METHODS

    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    rows = [
        line.split("|") for line in text[text.index("departs from") :].splitlines() if line.count("|") == 4
    ]
    keys = {key for row in rows for key in re.findall(r"`(\w+)(?:=[\w.]+)?`", row[3])}
    configs = (ShapeConfig, InferConfig, *(method.config for method in METHODS.values()))
    known = {name for config in configs for name in config.__dataclass_fields__}
    assert len(keys) > 10
    assert keys <= known


def attributes(node: ast.ClassDef) -> set[str]:
    """Names that a class annotates or assigns to itself."""
    inner = list(ast.walk(node))
    names = {n.target.id for n in inner if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return names | {n.attr for n in inner if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if p.suffix == ".py" and p.parts[len(ROOT.parts)] in ("ntdm", "data_prep")],
    ids=relative,
)
def test_attributes_stand_one_on_a_line(path: Path) -> None:
    """As ruff's D417 demands of arguments."""
    crowded = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else None
        section = re.search(r"^Attributes:\n((?:    .*\n?)+)", text or "", re.MULTILINE)
        if isinstance(node, ast.ClassDef) and section:
            known = attributes(node)
            for line in section[1].splitlines():
                later = [name for name in re.findall(r"[.;,] (\w+):", line) if name in known]
                crowded += [line.strip()] if later or re.match(r"    \w+, \w", line) else []
    assert crowded == []
