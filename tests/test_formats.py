"""docs/formats.md names every field that is written: a new one without a word there fails here."""

import re
from pathlib import Path

import pytest

from ntdm import estimator, export
from ntdm.data_prep import write_caches
from ntdm.data_prep.readers import nemo_prepared, occluded_pascal3d, pascal3d
from ntdm.data_prep.readers.ood_cv import names
from ntdm.evaluation import ood_cv_challenge
from ntdm.io import cache_schema, error_table, predictions
from ntdm.io.run_folder import LAST_CHECKPOINT

NAMES = {
    "cache": [
        *cache_schema.REQUIRED,
        *cache_schema.OPTIONAL,
        *cache_schema.ATTRIBUTES,
        "latent",
        "inputs",
        "pixels",
    ],
    "splits": [
        *("pascal3d", *pascal3d.SPLITS, *pascal3d.VOC_SPLITS),
        *("occluded_pascal3d", *occluded_pascal3d.LEVELS),
        *("ood_cv", *names.SPLITS),
        *("nemo_prepared", *nemo_prepared.SPLITS),
    ],
    "predictions": [*predictions.PREDICTION_COLUMNS, *predictions.DenseOutputs.__dataclass_fields__],
    "errors": [*error_table.ERROR_COLUMNS, *error_table.OPTIONAL_ERROR_COLUMNS],
    "infer": [*estimator.FILES],
    "faults": sorted(write_caches.FAULTS),
    "run": [str(LAST_CHECKPOINT)],
    "exports": [*export.BOP_COLUMNS, *export.BOP_IMAGE_COLUMNS, *ood_cv_challenge.OOD_CV_COLUMNS],
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_field_is_described(kind: str, checkout: Path) -> None:
    words = set(re.findall(r"[\w./-]+", (checkout / "docs" / "formats.md").read_text(encoding="utf-8")))
    assert [name for name in NAMES[kind] if name not in words] == []


def test_every_reason_for_dropping_is_described(checkout: Path) -> None:
    text = (checkout / "docs" / "formats.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (checkout / "data_prep").rglob("*.py"))
    reasons = re.findall(r'SampleError\(\s*"(\w+)"', sources)
    assert len(set(reasons)) > 10
    assert [reason for reason in sorted(set(reasons)) if f"`{reason}`" not in text] == []
