"""The readers by the names that commands give their datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ntdm.config.stages import PrepConfig
from ntdm.data_prep.readers import nemo_prepared, occluded_pascal3d, pascal3d
from ntdm.data_prep.readers.ood_cv import packagings
from ntdm.data_prep.write_caches import PrepReport

READERS: dict[str, Callable[..., PrepReport]] = {
    "pascal3d": pascal3d.prepare,
    "occluded-pascal3d": occluded_pascal3d.prepare,
    "ood-cv": packagings.prepare,
    "nemo-prepared": nemo_prepared.prepare,
}


def prepare(
    dataset: str,
    root: Path,
    cache_dir: Path,
    config: PrepConfig,
    *,
    pascal3d: Path | None = None,
    **options: Any,
) -> PrepReport:
    """Reads `dataset`, a key of READERS, at `root`; the reader's own `prepare` says what `options` are.

    `pascal3d` is the root of PASCAL3D+, where poses and CADs come from for datasets that ship none; PASCAL3D+
    has its own. Raises ValueError as the reader.
    """
    own = {} if dataset == "pascal3d" else {"pascal3d": pascal3d}
    return READERS[dataset](root, cache_dir, config, **own, **options)
