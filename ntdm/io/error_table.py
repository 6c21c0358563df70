"""Error files: one row a sample, written by scoring and read by reports (docs/formats.md)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ntdm.io.outputs import atomic_path
from ntdm.io.table import KEY_COLUMNS, ROUNDING, TEXT_COLUMNS, Table, cell_text, read_table, refuse, write_csv

ERROR_COLUMNS = (*KEY_COLUMNS, "rotation_error", "amodal_iou", "visible_iou", "class_correct", "seconds")
OPTIONAL_ERROR_COLUMNS = ("rotation_error_free", "amodal_iou_free")


def write_errors(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Path:
    """Writes an error CSV atomically from columns of equal length; a column that is absent is written empty.

    The file is read back and validated before it gets its name.
    """
    unknown = sorted(set(columns) - {*ERROR_COLUMNS, *OPTIONAL_ERROR_COLUMNS})
    if unknown:
        raise ValueError(f"{path}: unknown column {unknown[0]!r}")
    names = [*ERROR_COLUMNS, *(c for c in OPTIONAL_ERROR_COLUMNS if c in columns)]
    empty = [None] * len(columns["name"])
    with atomic_path(path) as temporary:
        rows = zip(*(columns.get(name, empty) for name in names), strict=True)
        write_csv(temporary, names, ([cell_text(cell) for cell in row] for row in rows))
        try:
            read_errors(temporary)
        except ValueError as error:
            raise ValueError(str(error).replace(str(temporary), str(path))) from None
    return path


def read_errors(path: Path) -> Table:
    """An error CSV, validated; ValueError names file, column and line.

    Refused: missing, unknown or duplicate columns, duplicate samples, a column with holes, rotation errors
    outside [0, pi] (degrees), IoU outside [0, 1] (percent), class_correct other than 0 and 1.
    """
    table = read_table(path, ERROR_COLUMNS, OPTIONAL_ERROR_COLUMNS, failed_allowed=())
    for column in (c for c in table.columns if c not in TEXT_COLUMNS and table.measured(c)):
        values = table[column]
        if column.startswith("rotation_error"):
            wrong = (values < 0) | (values > math.pi + ROUNDING)
            refuse(table, column, wrong, "radians in [0, pi] are wanted; is it in degrees?")
        elif "iou" in column:
            refuse(table, column, (values < 0) | (values > 1), "a share in [0, 1] is wanted, not percent")
        elif column == "class_correct":
            refuse(table, column, (values != 0) & (values != 1), "0 or 1 is wanted")
        else:
            refuse(table, column, values < 0, "a non-negative number is wanted")
    return table
