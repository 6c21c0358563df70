import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ntdm.config import reading
from ntdm.config.stages import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig, TrainConfig

TRAIN = TrainConfig(method="any")
ALL = (SyntheticConfig(), PrepConfig(), ShapeConfig(), TRAIN, InferConfig())


@pytest.mark.parametrize("config", ALL)
def test_a_config_survives_json(config: reading.Config) -> None:
    values = reading.to_dict(config)
    assert reading.from_dict(type(config), json.loads(json.dumps(values))) == config


def test_unknown_keys_and_wrong_types_name_source_and_key() -> None:
    with pytest.raises(ValueError, match=r"mine\.toml: unknown key 'epoch'; the keys are .*epochs"):
        reading.from_dict(TrainConfig, {"epoch": 3}, "mine.toml")
    with pytest.raises(ValueError, match=r"mine\.toml: epochs is '3': want int"):
        reading.from_dict(TrainConfig, {"epochs": "3"}, "mine.toml")
    with pytest.raises(ValueError, match="epochs is True: want int"):
        reading.from_dict(TrainConfig, {"epochs": True})
    with pytest.raises(ValueError, match=r"image_size is \[1, 2, 3\]: want 2 values"):
        reading.from_dict(PrepConfig, {"image_size": [1, 2, 3]})


def test_integers_become_floats_and_lists_become_tuples() -> None:
    made = reading.from_dict(InferConfig, {"distance": 4, "elevations": [0, 30]})
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
    changed = reading.override(TRAIN, ["epochs=7", "mirror = false", "method=pose-classifier"])
    assert (changed.epochs, changed.mirror, changed.method) == (7, False, "pose-classifier")
    with pytest.raises(ValueError, match="want key=value"):
        reading.override(TRAIN, ["epochs"])


def test_load_toml_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "shape.toml"
    with pytest.raises(ValueError, match=r"shape\.toml does not exist"):
        reading.load_toml(ShapeConfig, path)
    path.write_text("steps =")
    with pytest.raises(ValueError, match=r"shape\.toml is not TOML"):
        reading.load_toml(ShapeConfig, path)
    path.write_text("[shape]\nsteps = 5\n[train]\nepochs = 2")
    assert reading.load_toml(ShapeConfig, path).steps == 5
    for text in ("[shapes]\nsteps = 5", "infer = 3"):
        path.write_text(text)
        with pytest.raises(
            ValueError, match=r"shape\.toml: '(shapes|infer)' is none of the tables \[shape\]"
        ):
            reading.load_toml(ShapeConfig, path)


@pytest.mark.parametrize("stage", [ShapeConfig, InferConfig])
def test_paper_configuration_is_valid(stage: type) -> None:
    assert reading.load_toml(stage, reading.NAMED_CONFIGS / "paper.toml") != stage()


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        (PrepConfig, "scale", float("nan")),
        (PrepConfig, "image_size", (8, 64)),
        (ShapeConfig, "steps", 0),
        (ShapeConfig, "outline_views", 25),
        (TrainConfig, "epochs", 0),
        (TrainConfig, "batch_size", -1),
        (TrainConfig, "learning_rate", 0.0),
        (TrainConfig, "backbone", "huge"),
        (InferConfig, "azimuths", 0),
        (InferConfig, "steps", -1),
        (InferConfig, "elevations", ()),
        (InferConfig, "thetas", (0.0, float("nan"))),
        (InferConfig, "sigma", float("inf") * 0),
    ],
)
def test_a_value_out_of_range_is_refused(stage: type, key: str, value: object) -> None:
    named = {"method": "any"} if stage is TrainConfig else {}
    with pytest.raises(ValueError, match=f"{key}.* (is|want)"):
        stage(**named, **{key: value})


def test_a_byte_order_mark_is_no_part_of_the_toml(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[shape]\r\nsteps = 3\r\n")
    assert reading.resolve(ShapeConfig, str(tmp_path / "c.toml")).steps == 3


@dataclass(frozen=True, kw_only=True)
class WithTexture(TrainConfig):
    family = "textured"
    texture: int = 8


@dataclass(frozen=True, kw_only=True)
class WithVertices(TrainConfig):
    vertices: int = 100


METHODS = {"one": WithTexture, "two": WithTexture, "three": WithVertices}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file from when [train] held the keys of all methods, with tables of methods and of a family."""
    path = tmp_path / "mine.toml"
    tables = (
        "[train]\nepochs = 3\ntexture = 16\nvertices = 50",
        "[train.textured]\nepochs = 4\nbatch_size = 2",
        "[train.two]\nepochs = 5",
    )
    path.write_text("\n".join(tables))
    return path


def test_the_tables_of_methods_stand_above_each_other(mine: Path) -> None:
    """[train], then the family's, then the method's own; --set above all."""
    one, two, three = (reading.resolve_training(METHODS, str(mine), method=name) for name in METHODS)
    assert (one.epochs, one.batch_size, one.texture) == (4, 2, 16)
    assert (two.epochs, two.batch_size, two.texture) == (5, 2, 16)
    assert (three.epochs, three.batch_size, three.vertices) == (3, 16, 50)
    changed = reading.resolve_training(METHODS, str(mine), ["method=two", "texture=32", "epochs=6"], seed=9)
    assert changed == WithTexture(method="two", epochs=6, batch_size=2, texture=32, seed=9)
    assert reading.resolve_training(METHODS, str(mine)) == one, "the first is the default"


def test_a_key_of_another_method_is_refused_where_it_is_asked_for(mine: Path) -> None:
    for name, settings in (("three", ["texture=4"]), ("one", ["vertices=4"])):
        with pytest.raises(ValueError, match=r"--set: unknown key .*; the keys are .*, epochs, "):
            reading.resolve_training(METHODS, str(mine), settings, method=name)
    mine.write_text("[train.three]\ntexture = 4")
    with pytest.raises(ValueError, match=r"mine\.toml \[train\]: unknown key 'texture'; .*vertices"):
        reading.resolve_training(METHODS, str(mine), method="three")
    mine.write_text("[train]\ntextures = 4")
    with pytest.raises(ValueError, match=r"mine\.toml \[train\]: unknown key 'textures'"):
        reading.resolve_training(METHODS, str(mine), method="three")
    with pytest.raises(ValueError, match="train method is 'four': want one or two or three"):
        reading.resolve_training(METHODS, str(mine), ["method=four"])
