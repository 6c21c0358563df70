"""The run folder: config.json, weights, predictions, errors, sheets of one method (docs/formats.md)."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ntdm.config.protocol import PASCAL3D_FOCAL_PX
from ntdm.io.outputs import atomic_path

SCHEMA, SCHEMA_VERSION = "ntdm-run", 2
READ_VERSIONS = (1, SCHEMA_VERSION)  # 1 has the keys of all methods under "train"
LAST_CHECKPOINT = Path("checkpoints", "last.safetensors")


def find_runs(folder: Path) -> list[Path]:
    """Every run directly in a folder, in alphabetical order; ValueError where there is none."""
    runs = sorted(path.parent for path in folder.glob("*/config.json"))
    if not runs:
        raise ValueError(f"no run in {os.path.join('.', folder)}: name one by --runs")
    return runs


class RunFolder:
    """The files of a run by what they hold.

    Args:
        path: of the folder.

    Attributes:
        config: what was trained on what; imported predictions have one, too.
        weights: of the finished training.
        checkpoint: of an unfinished one.
        provenance: run.json, versions and times.
        history: train.csv, a row an epoch.
        train_names: category and name of every sample that was trained on.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config, self.weights = self.path / "config.json", self.path / "model.safetensors"
        self.provenance, self.history = self.path / "run.json", self.path / "train.csv"
        self.train_names, self.checkpoint = self.path / "train_names.txt", self.path / LAST_CHECKPOINT

    def predictions(self, split: str) -> Path:
        """The prediction file of "<dataset>/<split>"."""
        return self.path / "predictions" / f"{split}.csv"

    def errors(self, split: str) -> Path:
        """The error file of "<dataset>/<split>"."""
        return self.path / "errors" / f"{split}.csv"

    def sheet(self, split: str) -> Path:
        """The contact sheet of "<dataset>/<split>", or of "train/<epoch>"."""
        return self.path / "sheets" / f"{split}.png"

    def description(self) -> dict[str, Any]:
        """The object in config.json; ValueError where it holds none."""
        try:
            content = json.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.config} is not JSON ({error}): restore it, or train again with --overwrite"
            ) from None
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.config} holds {type(content).__name__}, want an object: restore it, or train with "
                "--overwrite"
            )
        return content

    def describe(self, description: Mapping[str, Any], trained_on: Collection[str] = ()) -> None:
        """Write config.json and, of a training, "category/name" of every sample."""
        with atomic_path(self.config) as part:
            part.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        if trained_on:
            with atomic_path(self.train_names) as part:
                part.write_text("".join(f"{name}\n" for name in sorted(trained_on)), encoding="utf-8")

    def trained_on(self) -> set[str]:
        """Every sample of the training, as "category/name"; ValueError where the list is lost."""
        names = set(self.train_names.read_text(encoding="utf-8").split("\n")) - {""}
        if not names:
            raise ValueError(f"{self.train_names} is empty: restore it, or train again")
        return names

    def weights_digest(self) -> str:
        """Hexadecimal digest of the weights: predictions remember which they were made with."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]

    def clear(self) -> None:
        """Delete the training and all that was made with its weights."""
        # The checkpoint first: without its config.json nobody would know what it is of.
        for stale in (self.checkpoint, self.weights, self.provenance, self.history, self.config):
            stale.unlink(missing_ok=True)
        self.clear_results()
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def clear_results(self) -> None:
        """Delete predictions, errors and sheets."""
        for folder in ("predictions", "errors", "sheets"):
            shutil.rmtree(self.path / folder, ignore_errors=True)


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]], source: str) -> None:
    """ValueError where a key of a run's config.json, `source`, is not of its kind."""
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind):
            raise ValueError(f"{source}: {key} is {values.get(key)!r}; train again with --overwrite")


def check_focal(path: Path, focal: float, description: Mapping[str, Any]) -> None:
    """ValueError where a cache file's nominal focal length, crop pixels, is not that of the run."""
    if not math.isclose(focal, description["nominal_focal"], rel_tol=1e-6):
        raise ValueError(
            f"{path} was prepared at a nominal focal length of {focal:g} pixels, the "
            f"training's caches at {description['nominal_focal']:g}: prepare it with --set "
            f"scale={description['nominal_focal'] / PASCAL3D_FOCAL_PX:g}"
        )
