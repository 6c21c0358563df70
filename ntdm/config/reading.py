"""Configurations from TOML, `--set key=value` and JSON; an unknown key or mistyped value is a ValueError."""

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ntdm.config.protocol import METHODS
from ntdm.config.stages import InferConfig, PrepConfig, ShapeConfig, SyntheticConfig, TrainConfig

NAMED_CONFIGS = Path(__file__).parent
Config = TypeVar("Config", SyntheticConfig, PrepConfig, ShapeConfig, TrainConfig, InferConfig)
_TABLES: dict[type, str] = {ShapeConfig: "shape", TrainConfig: "train", InferConfig: "infer"}


def to_dict(config: Any) -> dict[str, Any]:
    """JSON-ready dictionary of a config: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[Config], values: Mapping[str, Any], source: str = "config") -> Config:
    """A config from plain values; ValueError names `source` and a key that is unknown or mistyped."""
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(hints))}")
    return cls(**{key: _convert(value, hints[key], f"{source}: {key}") for key, value in values.items()})


def load_toml(cls: type[Config], path: Path, method: str | None = None) -> Config:
    """The stage's table, [shape], [train] or [infer], of a TOML file; ValueError says what is wrong.

    [train] may hold tables of methods, [train.nemo]: their keys stand above those of [train] for that method,
    which is `method`, else the key of [train], else NTDM.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} is not TOML: {error}") from None
    for name, values in tables.items():
        if name not in _TABLES.values() or not isinstance(values, dict):
            wanted = ", ".join(f"[{table}]" for table in _TABLES.values())
            raise ValueError(f"{path}: {name!r} is none of the tables {wanted}")
    where, values = f"{path} [{_TABLES[cls]}]", tables.get(_TABLES[cls], {})
    if cls is TrainConfig:
        own = {name: values.pop(name) for name in METHODS if name in values}
        method = method or values.get("method", TrainConfig.method)
        if not all(isinstance(table, dict) for table in own.values()):
            raise ValueError(f"{where}: a method's key holds no table; write [train.<method>]")
        if not isinstance(method, str):
            raise ValueError(f"{where}: method is {method!r}: want str")
        values = values | own.get(method, {}) | {"method": method}
    return from_dict(cls, values, where)


def apply_overrides(config: Config, settings: Sequence[str]) -> Config:
    """`--set key=value` pairs on top of a config; values are read as TOML, a bare word as a string."""
    values = to_dict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r}: want key=value")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    return from_dict(type(config), values, "--set")


def override(config: Config, settings: Sequence[str] | None, seed: int | None = None) -> Config:
    """`config` with --set, then --seed, which every command takes and prep has no use for."""
    chosen = [*(settings or ())]
    if seed is not None and hasattr(config, "seed"):
        chosen.append(f"seed={seed}")
    return apply_overrides(config, chosen)


def resolve(
    cls: type[Config], name: str, settings: Sequence[str] | None = None, seed: int | None = None,
    method: str | None = None,
) -> Config:  # fmt: skip
    """The stage's table of tiny.toml, paper.toml or a user's file, then --set, then --seed.

    `method` is the one whose table of [train] counts. ValueError: no such file, or as :func:`load_toml`.
    """
    path = NAMED_CONFIGS / f"{name}.toml" if name in ("tiny", "paper") else Path(name)
    if not path.exists():
        raise ValueError(f"--config {name}: want tiny, paper, or a TOML file, and there is no such file")
    return override(load_toml(cls, path, method), settings, seed)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], outer: str = "") -> str:
    """'key: old -> new' for every key that differs, nested ones as outer.inner; empty when equal."""
    texts = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            texts.append(difference(before, after, f"{outer}{key}."))
        elif before != after:
            said = (repr(values[key]) if key in values else "absent" for values in (old, new))
            texts.append(f"{outer}{key}: {' -> '.join(said)}")
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
