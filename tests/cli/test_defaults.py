"""The commands as the README writes them, in a project folder: each finds what the one before has written."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import raw_trees
from ntdm import train
from ntdm.cli import app
from tiny_world import INFER, SHAPE, TRAIN


@pytest.fixture
def project(tiny, tmp_path, monkeypatch) -> Path:
    """A folder with a cache alone."""
    monkeypatch.chdir(tmp_path)
    tiny.write_cache(tmp_path / "cache", "pascal3d/train", count=4, latents=False)
    tiny.write_cache(tmp_path / "cache", "pascal3d/val", count=2, seed=1, prefix="unseen", latents=False)
    return tmp_path


def settings(config: object, *keys: str) -> list[str]:
    pairs = []
    for key in keys:
        value = getattr(config, key)
        value = list(value) if isinstance(value, tuple) else str(value).lower()
        pairs += ["--set", f"{key}={value}"]
    return pairs


def project_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.h5"))


def run(*command: str) -> list[str]:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_project_folder(project):
    quick = settings(SHAPE, "subdivisions", "width", "layers", "frequencies")
    assert run("fit-shapes", *quick, "--set", "steps=60", "--set", "network_steps=20")[-1] == "shapes"
    keys = (
        "feature_dim",
        "texture_size",
        "background_bank",
        "epochs",
        "batch_size",
        "bf16",
        "patches",
        "augment",
    )
    assert run("train", *settings(TRAIN, *keys), "--watch-every", "0")[-1] == str(Path("runs", "ntdm"))
    inference = settings(INFER, "azimuths", "elevations", "thetas", "refined_starts", "steps")
    assert run("evaluate", *inference)[-1] == str(Path("runs/ntdm/errors/pascal3d/val.csv"))
    assert run("report", "--table", "1", "--no-published")[-1] == str(Path("report/table_1.csv"))
    assert sorted(path.name for path in project.iterdir()) == ["cache", "report", "runs", "shapes"]


def test_prep_data_makes_and_keeps_a_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw_trees.write_pascal3d(tmp_path / "raw", train=2, val=1)
    command = ("prep-data", "pascal3d", "--root", "raw", "--image-size", "32", "48")
    assert run(*command)[-1] == "cache"
    before = {path: path.read_bytes() for path in project_files(tmp_path)}
    assert {path.name for path in before} == {"car.h5"} and len(before) == 2
    result = CliRunner().invoke(app, [*command, "--set", "objects=all"])
    assert result.exit_code == 1 and "--overwrite" in result.output
    assert {path: path.read_bytes() for path in project_files(tmp_path)} == before


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [((), "ntdm"), (("--method", "nemo"), "nemo"), (("--set", "method=res50-pose"), "res50-pose")],
)
def test_a_method_has_a_folder_of_its_own(arguments, folder, project, monkeypatch):
    outs = []
    monkeypatch.setattr(train, "run", lambda config, cache, shapes, out, **_: outs.append(out) or out)
    assert run("train", *arguments)[-1] == str(Path("runs", folder))
    assert outs == [Path("runs", folder)]


def test_nothing_is_replaced_by_a_default(project):
    quick = settings(SHAPE, "subdivisions", "width", "layers", "frequencies")
    run("fit-shapes", *quick, "--set", "steps=3", "--set", "network_steps=3")
    before = {path: path.read_bytes() for path in project.glob("shapes/*.safetensors")}
    result = CliRunner().invoke(app, ["fit-shapes", *quick, "--set", "steps=4", "--set", "network_steps=3"])
    assert result.exit_code == 1 and "pass --overwrite to replace it" in result.output
    assert before and {path: path.read_bytes() for path in before} == before


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, message in (
        (["fit-shapes"], "no cache file below cache; `ntdm prep-data` makes them"),
        (["train"], "no cache file in cache/pascal3d/train; make it with `ntdm prep-data pascal3d`"),
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and message in result.output.replace(os.sep, "/")
    result = CliRunner().invoke(app, ["evaluate"])
    assert result.exit_code == 2 and "'cache' does not exist" in " ".join(result.output.split())
