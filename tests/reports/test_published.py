"""published.csv against the paper's own text, cell by cell; skipped where the text is not there."""

import csv
import re
from pathlib import Path

import pytest

from ntdm.config.protocol import NUISANCES

METRIC_COLUMNS = {
    1: [("pose_acc_pi_6", f"L{i}") for i in range(4)]
    + [("pose_acc_pi_18", f"L{i}") for i in range(4)]
    + [("amodal_iou", f"L{i}") for i in (1, 2, 3)]
    + [("class_acc", f"L{i}") for i in range(4)],
    3: [(metric, "all") for metric in ("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou")],
}
# As the paper prints them -> as we call them. The last two of Table 3 were run into one line by the text.
NAMES = {
    "DMNT": "NTDM",
    "Bayesian": "Bayesian-Amodal",
    "full NTDM": "full",
    r"w/o $\mathcal{BG}$": "w/o background",
    r"single $\alpha_b$": "single α_b",
    "fix shape": "fixed shape",
    "random average shape $1/n$": "latent random",
    "": "latent average 1/n",
}
Cells = dict[tuple[int, str, str, str], float]


@pytest.fixture
def paper(real_data: Path) -> str:
    path = real_data.parent / "papers" / "000_79d398d2852a73c2.txt"
    if not path.exists():
        pytest.skip(f"no text of the paper at {path}")
    return path.read_text(encoding="utf-8")


def before(text: str, caption: str, lines: int) -> list[list[str]]:
    """The tab-separated rows above a caption."""
    above = text[: text.index(caption)].splitlines()[-lines:]
    return [line.split("\t") for line in above if "\t" in line]


def put(cells: Cells, table: int, row: list[str], columns: list[tuple[str, str]]) -> None:
    name = re.sub(r" \[\d+\]$", "", row[0])
    assert len(row) == len(columns) + 1, row
    for (metric, column), text in zip(columns, row[1:], strict=True):
        if re.fullmatch(r"\d+\.\d", text):
            cells[table, NAMES.get(name, name), metric, column] = float(text)
        else:
            assert text in ("X", "×"), f"{row[0]}: {text!r} is neither a number nor a cross"


def test_every_published_number_is_the_papers(paper: str) -> None:
    printed: Cells = {}
    for row in before(paper, "Table 1. Comparison", 12)[2:]:
        put(printed, 1, row, METRIC_COLUMNS[1])
    second = before(paper, "Table 2. Comparison", 24)
    assert [row[0] for row in second].count("Nuisance") == 3
    metrics = iter(("pose_acc_pi_6", "pose_acc_pi_18", "amodal_iou"))
    columns: list[tuple[str, str]] = []
    for row in second:
        if row[0] == "Nuisance":
            assert row[1:] == [*NUISANCES, "mean"]
            metric = next(metrics)
            columns = [(metric, column) for column in row[1:]]
        elif "Metric" not in row[0]:
            put(printed, 2, row, columns)
    for row in before(paper, "Table 3. Ablation", 9)[1:]:
        put(printed, 3, row, METRIC_COLUMNS[3])
    with (Path(__file__).resolve().parents[2] / "reports" / "published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ours = {(int(r["table"]), r["method"], r["metric"], r["column"]): float(r["value"]) for r in rows}
    assert len(ours) == len(rows)
    assert ours == printed
    assert len(printed) == 139
