"""The methods that can be trained and evaluated, by the name they have on the command line and in the tables.

How one is added: docs/methods.md.
"""

from collections.abc import Sequence

from ntdm.config import reading
from ntdm.config.stages import TrainConfig
from ntdm.methods import classifier, mask_rcnn, nemo, ntdm

# The first is the default.
METHODS = {
    method.name: method for method in (ntdm.METHOD, nemo.METHOD, mask_rcnn.METHOD, *classifier.METHODS)
}


def config_classes() -> dict[str, type[TrainConfig]]:
    """The class of each method's training configuration, by the method's name."""
    return {name: method.config for name, method in METHODS.items()}


def configure(
    name: str = "tiny",
    settings: Sequence[str] | None = None,
    seed: int | None = None,
    method: str | None = None,
) -> TrainConfig:
    """The training configuration of a method.

    Args:
        name: "tiny", "paper", or a TOML file.
        settings: key=value pairs that override it.
        seed: overrides it, too.
        method: which; by default the one that `settings` or the file name, else the first of METHODS.

    Raises:
        ValueError: no such file or method; a key that is unknown, mistyped or out of range.
    """
    return reading.resolve_training(config_classes(), name, settings, seed, method)
