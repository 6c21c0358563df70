"""CSV files with one row a sample, and the error files among them (docs/formats.md).

    <run>/errors/<dataset>/<split>.csv    one row a sample: the errors, all that the reports read

A failed prediction is written as a rotation error of pi and IoU 0. A column wholly empty was not measured; a
column with holes is refused, because dropping failures inflates a score. Anyone's method can be put into the
tables by writing this file. Pure Python and numpy: the reports work without torch.
"""

import codecs
import csv
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_COLUMNS = ("dataset", "split", "category", "name")
TEXT_COLUMNS = (*KEY_COLUMNS, "predicted_category")

MOST_ROWS = 500_000  # of a split: a file of more is none of ours, and would fill the memory
LONGEST_CELL = 1000  # characters: one that is longer would make its whole column as wide in memory
ROUNDING = 1e-6  # radians by which a printed pi may exceed pi


@dataclass(frozen=True)
class Table:
    """A validated CSV: columns by name (text [N] or f64 [N]) and the file line of every row."""

    path: Path
    columns: Mapping[str, NDArray[Any]]
    empty: frozenset[str]  # columns without a single value
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def measured(self, name: str) -> bool:
        """Whether a column is there and has values."""
        return name in self.columns and name not in self.empty

    def keys(self) -> list[tuple[str, str]]:
        """(category, name) of every row."""
        return list(zip(self["category"].tolist(), self["name"].tolist(), strict=True))


def read_table(
    path: Path, required: Sequence[str], optional: Sequence[str], failed_allowed: Sequence[str]
) -> Table:
    """A CSV with the `required` and any of the `optional` columns, one row a sample.

    `failed_allowed` columns may hold ``nan``. ValueError names file, line and column: missing, duplicate or
    unknown columns, text where a number belongs, columns with holes, a sample that stands twice.
    """
    numbered = read_rows(path)
    _, header = next(numbered)
    check_header(path, header, required, optional)
    lines: list[int] = []
    rows: list[list[str]] = []
    for line, row in numbered:
        lines.append(line)
        rows.append(row)
    columns: dict[str, NDArray[Any]] = {}
    empty = set()
    for column, cells in zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True):
        holes = cells.count("")
        if holes and (holes < len(cells) or column in KEY_COLUMNS):
            raise ValueError(
                f"{path}, line {lines[cells.index('')]}: column {column} has {holes} holes in {len(cells)} "
                "rows; fill them all (a failed prediction counts as wrong), or leave the whole column empty "
                "if it was not measured"
            )
        if holes or not cells:
            empty.add(column)
        if column in TEXT_COLUMNS:
            columns[column] = np.array(cells, dtype=str)
        elif holes:
            columns[column] = np.full(len(cells), math.nan)
        else:
            columns[column] = _numbers(path, column, cells, lines, column in failed_allowed)
    table = Table(path, columns, frozenset(empty), np.array(lines, dtype=np.int64))
    keys = table.keys()
    if len(set(keys)) < len(keys):
        first: dict[tuple[str, str], int] = {}
        for key, line in zip(keys, lines, strict=True):
            if first.setdefault(key, line) != line:
                raise ValueError(f"{path}, line {line}: sample {key} stands already in line {first[key]}")
    return table


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of a CSV file's rows, the header first (empty of an empty file); no blank rows.

    UTF-8, with or without a byte order mark, any line ends. Every row has as many cells as the header, each
    of at most LONGEST_CELL characters; at most MOST_ROWS rows follow the header.

    Raises:
        ValueError: there is no such file, it is no CSV or not in UTF-8; a row is not as above (line named).
    """
    try:
        # A mark of the byte order is no part of the first column's name.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            yield 1, header
            for count, row in enumerate(filter(None, reader)):
                fault = _fault(row, len(header), count)
                if fault:
                    raise ValueError(f"{path}, line {reader.line_num}: {fault}")
                yield reader.line_num, row
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{path} is UTF-16: save it as UTF-8") from None
        raise ValueError(f"{path} is not a CSV file: {error}") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from None


def _fault(row: Sequence[str], columns: int, count: int) -> str | None:
    """What is wrong with a row under so many columns and after so many rows."""
    if len(row) != columns:
        return f"{len(row)} cells under {columns} columns"
    text = "".join(row)
    if len(text) > LONGEST_CELL and max(map(len, row)) > LONGEST_CELL:
        return f"a cell of more than {LONGEST_CELL} characters"
    if "\0" in text:
        return "a NUL byte; is it a text file?"
    return f"more than {MOST_ROWS} samples in a split" if count == MOST_ROWS else None


def check_header(
    path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str] | None
) -> None:
    """ValueError where a column is missing, there twice, or unknown.

    Args:
        path: of the CSV file, for the message.
        header: its columns.
        required: columns that must be there.
        optional: columns that may be there; None: any.
    """
    allowed = {*required, *(header if optional is None else optional)}
    for kind, names in (
        ("duplicate", [c for c in header if header.count(c) > 1 and (optional is not None or c in required)]),
        ("missing", [c for c in required if c not in header]),
        ("unknown", [c for c in header if c not in allowed]),
    ):
        if names:
            found = textwrap.shorten(",".join(header), 300) or "nothing"
            raise ValueError(
                f"{path}, line 1: {kind} column {names[0]!r}; want {','.join(required)}; found {found}"
                + _way_out(header)
            )


def _way_out(header: Sequence[str]) -> str:
    """What to do about a header as Excel writes it in some countries, or pandas with an index."""
    if len(header) == 1 and ";" in header[0]:
        return "; save it with commas, not semicolons, between the cells"
    if header and not header[0]:
        return "; if the first column is the index of a pandas frame, write it with index=False"
    return ""


def _numbers(
    path: Path, column: str, cells: Sequence[str], lines: Sequence[int], failed_allowed: bool
) -> NDArray[np.float64]:
    """A column without holes."""
    try:
        if "_" in "".join(cells):  # as in number(), for all of them at once
            raise ValueError
        values = np.array(list(map(float, cells)), dtype=np.float64)
    except ValueError:
        row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        raise ValueError(f"{path}, line {lines[row]}: {column} is {cells[row]!r}, want a number") from None
    odd = np.isinf(values) if failed_allowed else ~np.isfinite(values)
    if odd.any():
        row = int(odd.argmax())
        raise ValueError(f"{path}, line {lines[row]}: {column} is {cells[row]!r}, want a finite number")
    return values


def _is_number(cell: str) -> bool:
    try:
        number(cell)
    except ValueError:
        return False
    return True


def number(cell: str) -> float:
    """A cell as a number; ValueError where it is none, as 1_0, which Python would take for ten."""
    if "_" in cell:
        raise ValueError(f"{cell!r} is no number")
    return float(cell)


def refuse(table: Table, column: str, wrong: NDArray[np.bool_], wanted: str) -> None:
    """ValueError naming the first row that is `wrong` [N], its line, its value and what is wanted."""
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{table.path}, line {table.lines[row]}: {column} is {table[column][row]:g}; {wanted}"
        )


def cell_text(value: Any) -> str:
    """A CSV cell: empty for None, ``nan`` for NaN, floats to their last digit."""
    if value is None:
        return ""
    if isinstance(value, str | int | np.integer):
        return str(value)
    return repr(float(value))  # shortest text that reads back to the same number


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Header and rows as UTF-8 CSV with Unix line ends, the same bytes on every system."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
