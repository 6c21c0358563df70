"""What the commands of cli.py share: the types of their options, and the reading of values given as text.

A value that makes no sense is typer.BadParameter: it names the option, and the exit code is 2.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """--device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dataset(StrEnum):
    """The raw datasets that prep-data reads."""

    pascal3d = "pascal3d"
    occluded_pascal3d = "occluded-pascal3d"
    ood_cv = "ood-cv"
    nemo_prepared = "nemo-prepared"


class Compression(StrEnum):
    """Of photos and masks in a cache."""

    none = "none"
    lzf = "lzf"
    gzip = "gzip"


class Predictions(StrEnum):
    """The formats that import reads."""

    csv = "csv"
    ood_cv = "ood-cv"
    nemo = "nemo"


class Format(StrEnum):
    """The formats that export writes."""

    coco = "coco"
    bop = "bop"
    ood_cv = "ood-cv"


def only_cpu(device: Device) -> Device:
    """ValueError for CUDA."""
    if device is Device.cuda:
        raise ValueError("--device cuda: this command computes on the CPU only; leave --device out")
    return device


def resolved(device: Device) -> str:
    """'cpu' or 'cuda'; ValueError when CUDA is asked for and not there."""
    import torch

    if device is Device.auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device is Device.cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device; `ntdm doctor` says what is missing")
    return str(device)


CategoriesOption = Annotated[
    list[str] | None, typer.Option(help="Repeat, or separate by commas. Default: every category found.")
]
ConfigOption = Annotated[str, typer.Option("--config", help="tiny, paper, or a TOML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one config key.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Random seed, where the stage draws anything. Default: 0.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute. auto: on CUDA where it is there.")]
CpuOption = Annotated[Device, typer.Option(callback=only_cpu, help="Where to compute: the CPU only.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output made before.")]
CacheOption = Annotated[Path, typer.Option(help="Folder of the cache files.")]
TestCacheOption = Annotated[
    Path, typer.Option(exists=True, help="Folder of the cache files, or one of them.")
]
ShapesOption = Annotated[Path, typer.Option(help="Folder that fit-shapes wrote.")]
TrainOnOption = Annotated[list[str] | None, typer.Option(help="DATASET/SPLIT, repeat or use commas.")]
SplitsOption = Annotated[
    list[str] | None, typer.Option(help="DATASET/SPLIT, repeat or use commas. Default: all but train.")
]
RunOption = Annotated[Path, typer.Option(help="Folder of a trained run.")]


def by_stage(settings: Sequence[str] | None, stages: Sequence[str]) -> dict[str, list[str]]:
    """`--set STAGE.KEY=VALUE` pairs by stage, without its name."""
    pairs: dict[str, list[str]] = {stage: [] for stage in stages}
    for setting in settings or ():
        stage, dot, pair = setting.partition(".")
        if not dot or stage.strip() not in pairs:
            forms = " or ".join(f"{stage}.KEY=VALUE" for stage in stages)
            raise typer.BadParameter(f"{setting!r}: want {forms}", param_hint="--set")
        pairs[stage.strip()].append(pair)
    return pairs


def split(values: Sequence[str] | None) -> list[str]:
    """The values of an option that may be repeated or hold commas."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def keys(values: Sequence[str] | None, option: str) -> list[str]:
    """Each DATASET/SPLIT once."""
    given = [key.strip("/") for key in split(values)]
    for key in given:
        if not re.fullmatch(r"[\w-]+/[\w-]+", key):
            raise typer.BadParameter(f"{key!r}: want DATASET/SPLIT, as pascal3d/val", param_hint=option)
    return list(dict.fromkeys(given))


def box(text: str | None) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 in pixels, from "x0,y0,x1,y1"."""
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: want x0,y0,x1,y1 in pixels", param_hint="--bbox") from None
    if not (x0 < x1 and y0 < y1):
        raise typer.BadParameter(f"{text!r}: want x0 < x1 and y0 < y1", param_hint="--bbox")
    return x0, y0, x1, y1


def split_keys(cache: Path, splits: Sequence[str] | None) -> list[str]:
    """The keys of --splits; none for every test split, and none of a file, which is one split by itself."""
    if cache.is_file() and splits:
        raise typer.BadParameter(f"{cache} is one split by itself; name its folder", param_hint="--splits")
    return keys(splits, "--splits")
