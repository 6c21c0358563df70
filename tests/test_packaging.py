"""Both ways to install: the editable checkout that runs this test, and a wheel used from elsewhere."""

import collections
import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ntdm

ROOMS = {"ntdm": "ntdm", "ntdm.cli": "cli.py", "ntdm.data_prep": "data_prep", "ntdm.reports": "reports"}
SHIPPED = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "cli.py")
FOLDERS = ("ntdm", "data_prep", "reports", "cuda")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: a build in the checkout leaves its folder there, and reuses it."""
    root, copy = Path(__file__).resolve().parents[1], tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in SHIPPED:
        shutil.copy2(root / name, copy / name)
    for name in FOLDERS:
        shutil.copytree(root / name, copy / name, ignore=ignored)
    options = (
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--wheel-dir",
        str(copy / "dist"),
    )
    command = [sys.executable, "-m", "pip", "wheel", *options, str(copy)]
    environment = {**os.environ, "NTDM_CUDA": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.parametrize(("module", "place"), ROOMS.items())
def test_editable_rooms_resolve_to_the_checkout(module: str, place: str, checkout: Path) -> None:
    found = Path(str(importlib.import_module(module).__file__)).resolve()
    assert found == checkout / place or found.parent == checkout / place


def test_the_wheel_holds_every_module_the_kernels_and_the_library(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"ntdm/cli.py", "ntdm/py.typed", "ntdm/config/tiny.toml", "ntdm/config/paper.toml"}
    wanted |= {path.relative_to(checkout).as_posix() for path in (checkout / "ntdm").rglob("*.py")}
    for room in ("data_prep", "reports"):
        wanted |= {
            f"ntdm/{path.relative_to(checkout).as_posix()}" for path in (checkout / room).rglob("*.py")
        }
    wanted |= {f"ntdm/kernels/{path.name}" for path in (checkout / "cuda").glob("*.[ch]*")}
    assert not wanted - names
    assert len([name for name in names if name.endswith(".so")]) == 1
    assert {name.split("/")[0] for name in names} == {"ntdm", f"ntdm-{ntdm.__version__}.dist-info"}
    assert wheel.name.split("-")[2:4] == ["py3", "none"], (
        "plain C through ctypes: one wheel for every Python 3"
    )


def test_the_wheel_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    code = (
        "import ntdm.cli, ntdm.data_prep, ntdm.reports\n"
        "from ntdm.ops import build, kernels\n"
        "for module in (ntdm, ntdm.cli, ntdm.data_prep, ntdm.reports):\n"
        f"    assert module.__file__.startswith({str(site)!r}), module.__file__\n"
        "assert build.CPU.built().parent == build.PACKAGE, build.CPU.built()\n"
        "kernels.library()\n"
        "build.CPU.build(build.user_cache())  # the sources are there, to rebuild a stale library from\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cuda_holds_no_python_and_no_stem_twice(checkout: Path) -> None:
    """A regular package `cuda` would hide NVIDIA's namespace package; objects of one stem collide."""
    assert not list((checkout / "cuda").rglob("*.py"))
    sources = [path.stem for path in (checkout / "cuda").iterdir() if path.suffix in (".cpp", ".cu")]
    assert [stem for stem, count in collections.Counter(sources).items() if count > 1] == []


def test_versions_agree(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["version"] == ntdm.__version__


def test_constraints_pin_every_dependency(checkout: Path) -> None:
    lines = (checkout / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines}
    assert all("==" in line and "+" not in line for line in lines), "exact versions, no build suffix"
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {text.split(";")[0].split(">=")[0].strip().lower() for text in wanted}
    assert names - pinned == {"open3d"}, "open3d is for machines that open3d-cpu has no wheel for"
