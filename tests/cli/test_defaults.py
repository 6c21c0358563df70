"""The commands as the README writes them, in a project folder: each finds what the one before has written."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

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
