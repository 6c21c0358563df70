"""Where the files of a PASCAL3D+ of one category lie, and how the tests have it prepared."""

from pathlib import Path

from ntdm.config.stages import PrepConfig
from ntdm.data_prep import prep_data

CONFIG = PrepConfig(image_size=(64, 96), scale=0.3)


def annotation(root: Path, name: str = "n0_0") -> Path:
    return root / "Annotations" / "car_imagenet" / f"{name}.mat"


def photo(root: Path, name: str = "n0_0") -> Path:
    return root / "Images" / "car_imagenet" / f"{name}.JPEG"


def prepare(root: Path, config: PrepConfig = CONFIG, **options):
    return prep_data.run("pascal3d", root, root.parent / "cache", config, **({"splits": ["train"]} | options))


def dropped(root: Path, config: PrepConfig = CONFIG) -> dict[str, int]:
    return prepare(root, config).files[0].dropped
