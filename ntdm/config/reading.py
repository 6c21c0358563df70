"""Configurations from TOML, `--set key=value` and JSON; an unknown key or mistyped value is a ValueError."""

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ntdm.config.stages import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig, TrainConfig

NAMED_CONFIGS = Path(__file__).parent
Config = TypeVar("Config", bound=SyntheticConfig | PrepConfig | ShapeConfig | TrainConfig | InferConfig)
Methods = Mapping[str, type[TrainConfig]]  # a method's name -> the class of its configuration
_TABLES: dict[type, str] = {ShapeConfig: "shape", InferConfig: "infer"}
_STAGES = ("shape", "train", "infer")


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready dictionary of a config: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def keys_of(cls: type[Config]) -> set[str]:
    """The keys of a configuration."""
    return {field.name for field in dataclasses.fields(cls)}


def from_dict(cls: type[Config], values: Mapping[str, Any], source: str = "config") -> Config:
    """A config from plain values; ValueError names `source` and a key that is unknown or mistyped."""
    hints, keys = typing.get_type_hints(cls), keys_of(cls)
    unknown = sorted(set(values) - keys)
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(keys))}")
    return cls(**{key: _convert(value, hints[key], f"{source}: {key}") for key, value in values.items()})


def load_toml(cls: type[Config], path: Path) -> Config:
    """The stage's table, [shape] or [infer], of a TOML file; ValueError says what is wrong."""
    return from_dict(cls, _read_tables(path).get(_TABLES[cls], {}), f"{path} [{_TABLES[cls]}]")


def load_training(methods: Methods, path: Path, method: str | None = None) -> TrainConfig:
    """One method's configuration from [train] of a TOML file.

    Above the keys of [train] stand those of [train.<family>], which several methods share, and above these
    the method's own, [train.nemo]. Keys of another method that stand in [train] itself are passed over.

    Args:
        methods: all that there are.
        path: of the file.
        method: the one to be trained; by default the file's key `method`, else the first of `methods`.

    Raises:
        ValueError: no TOML; an unknown method; a key that is unknown, mistyped or out of range.
    """
    where, shared = f"{path} [train]", _read_tables(path).get("train", {})
    families = dict.fromkeys(cls.family for cls in methods.values() if cls.family)
    tables = {name: shared.pop(name) for name in (*methods, *families) if name in shared}
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{where}: a method's key holds no table; write [train.<method>]")
    method = method or shared.get("method", next(iter(methods)))
    if not isinstance(method, str):
        raise ValueError(f"{where}: method is {method!r}: want str")
    if method not in methods:
        raise ValueError(f"train method is {method!r}: want {' or '.join(methods)}")
    cls = methods[method]
    values = without_other_methods(methods, cls, shared)
    values |= tables.get(cls.family, {}) | tables.get(method, {}) | {"method": method}
    return from_dict(cls, values, where)


def without_other_methods(
    methods: Methods, cls: type[TrainConfig], values: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` without the keys that only methods of another configuration than `cls` have."""
    others = set().union(*map(keys_of, methods.values())) - keys_of(cls)
    return {key: value for key, value in values.items() if key not in others}


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`--set key=value` pairs; values are read as TOML, a bare word as a string."""
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r}: want key=value")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return values


def override(config: Config, settings: Sequence[str] | None, seed: int | None = None) -> Config:
    """`config` with --set, then --seed, which every command takes and prep has no use for."""
    values = to_dict(config) | parse_settings(settings or ())
    if seed is not None and "seed" in keys_of(type(config)):
        values["seed"] = seed
    return from_dict(type(config), values, "--set")


def resolve(
    cls: type[Config], name: str, settings: Sequence[str] | None = None, seed: int | None = None
) -> Config:
    """The stage's table of tiny.toml, paper.toml or a user's file, then --set, then --seed.

    ValueError: no such file, or as :func:`load_toml`.
    """
    return override(load_toml(cls, _find_config(name)), settings, seed)


def resolve_training(
    methods: Methods, name: str, settings: Sequence[str] | None = None, seed: int | None = None,
    method: str | None = None,
) -> TrainConfig:  # fmt: skip
    """As :func:`resolve`, the configuration of `method`, else of the one that --set or the file name.

    ValueError: no such file, or as :func:`load_training`.
    """
    method = method or parse_settings(settings or ()).get("method")
    config = load_training(methods, _find_config(name), method)
    return override(config, [*(settings or ()), f"method={config.method}"], seed)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], outer: str = "") -> str:
    """'key: old -> new' for every key that differs, nested ones as outer.inner; empty when equal."""
    texts = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            texts.append(difference(before, after, f"{outer}{key}."))
        elif before != after:
            sides = (repr(values[key]) if key in values else "absent" for values in (old, new))
            texts.append(f"{outer}{key}: {' -> '.join(sides)}")
    return ", ".join(filter(None, texts))


def _convert(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is {value!r}: want a list")
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise ValueError(f"{where} is {value!r}: want {len(kinds)} values")
        return tuple(_convert(v, k, where) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}: want {hint.__name__}")
    return value


def _find_config(name: str) -> Path:
    path = NAMED_CONFIGS / f"{name}.toml" if name in ("tiny", "paper") else Path(name)
    if not path.exists():
        raise ValueError(f"--config {name}: want tiny, paper, or a TOML file, and there is no such file")
    return path


def _read_tables(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a configuration file by stage."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} is not TOML: {error}") from None
    for name, values in tables.items():
        if name not in _STAGES or not isinstance(values, dict):
            named = ", ".join(f"[{stage}]" for stage in _STAGES)
            raise ValueError(f"{path}: {name!r} is none of the tables {named}")
    return tables
