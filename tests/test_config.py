import json
import os
from pathlib import Path

import pytest

from ntdm import config
from ntdm.config import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig, TrainConfig

ALL = (SyntheticConfig, PrepConfig, ShapeConfig, TrainConfig, InferConfig)


@pytest.mark.parametrize("cls", ALL)
def test_a_config_survives_json(cls: type) -> None:
    values = config.to_dict(cls())
    assert config.from_dict(cls, json.loads(json.dumps(values))) == cls()


def test_unknown_keys_and_wrong_types_name_source_and_key() -> None:
    with pytest.raises(ValueError, match=r"mine\.toml: unknown key 'epoch'; the keys are .*epochs"):
        config.from_dict(TrainConfig, {"epoch": 3}, "mine.toml")
    with pytest.raises(ValueError, match=r"mine\.toml: epochs is '3': want int"):
        config.from_dict(TrainConfig, {"epochs": "3"}, "mine.toml")
    with pytest.raises(ValueError, match="epochs is True: want int"):
        config.from_dict(TrainConfig, {"epochs": True})
    with pytest.raises(ValueError, match=r"image_size is \[1, 2, 3\]: want 2 values"):
        config.from_dict(PrepConfig, {"image_size": [1, 2, 3]})


def test_integers_become_floats_and_lists_become_tuples() -> None:
    made = config.from_dict(InferConfig, {"distance": 4, "elevations": [0, 30]})
    assert made.distance == 4.0
    assert isinstance(made.distance, float)
    assert made.elevations == (0.0, 30.0)


@pytest.mark.parametrize("values", [{"image_size": (8, 128)}, {"objects": "some"}, {"scale": -1.0}])
def test_prep_values_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=f"prep {next(iter(values))}"):
        PrepConfig(**values)


def test_scale_fits_a_unit_object_by_default() -> None:
    assert PrepConfig().resolved_scale == 0.8
    assert PrepConfig(image_size=(128, 256), scale=0.5).resolved_scale == 0.5


def test_overrides_read_toml_values_and_bare_words() -> None:
    changed = config.apply_overrides(TrainConfig(), ["epochs=7", "mirror = false", "method=pose-classifier"])
    assert (changed.epochs, changed.mirror, changed.method) == (7, False, "pose-classifier")
    with pytest.raises(ValueError, match="want key=value"):
        config.apply_overrides(TrainConfig(), ["epochs"])


def test_load_toml_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "shape.toml"
    with pytest.raises(ValueError, match=r"shape\.toml does not exist"):
        config.load_toml(ShapeConfig, path)
    path.write_text("steps =")
    with pytest.raises(ValueError, match=r"shape\.toml is not TOML"):
        config.load_toml(ShapeConfig, path)
    path.write_text("steps = 5")
    assert config.load_toml(ShapeConfig, path).steps == 5


def test_finished_keeps_refuses_or_replaces(tmp_path: Path) -> None:
    old, new = {"steps": 1, "seed": 0}, {"steps": 2, "seed": 0}
    assert config.finished(tmp_path, old, old, overwrite=False)
    assert not config.finished(tmp_path, old, new, overwrite=True)
    with pytest.raises(ValueError, match=r"another config \(steps: 1 -> 2\); pass --overwrite"):
        config.finished(tmp_path, old, new, overwrite=False)


def test_atomic_path_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "a.txt"
    with config.atomic_path(final) as temporary:
        temporary.write_text("old")
        assert not final.exists()
        assert temporary.suffix == final.suffix

    def interrupted() -> None:
        with config.atomic_path(final) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert final.read_text() == "old"
    assert os.listdir(final.parent) == ["a.txt"]
