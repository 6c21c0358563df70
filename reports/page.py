"""A report as one HTML page that needs nothing beside it: sortable tables with intervals, figures inside."""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from ntdm.reports.measures import ALL, CLASS_MEAN
from ntdm.reports.runs import PUBLISHED_SUFFIX
from ntdm.reports.typeset import Blocks, counts, printed_cells

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1f }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.35rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .4rem 0 1.2rem }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
th.text, td.text { text-align: left }
thead th:not(.text) { min-width: 5.2rem }
thead th { border-bottom: 2px solid #999; padding: 0 }
thead button { all: unset; cursor: pointer; padding: .3rem .7rem }
thead button { display: block; width: 100%; box-sizing: border-box }
thead button:focus-visible { outline: 2px solid #0072dc }
thead th[aria-sort=ascending] button::after { content: " \\2191" }
thead th[aria-sort=descending] button::after { content: " \\2193" }
tbody tr { border-bottom: 1px solid #e4e4e8 }
tr.published { color: #6b6b75; font-style: italic }
tr.whole td { font-weight: 600 }
small { display: block; color: #6b6b75; font-size: .75em; font-weight: 400 }
details { margin: .3rem 0 } summary { cursor: pointer }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto } figcaption { color: #55555f }
dt { font-weight: 600 } dd { margin: 0 0 .4rem }
@media (max-width: 45rem) {
  table { font-size: .85rem }
  th, td, thead button { padding: .2rem .35rem }
  thead th { padding: 0 }
  thead th:not(.text) { min-width: 0 }
  th.text:first-child, td.text:first-child { position: sticky; left: 0; background: #fff }
  td.text:first-child { white-space: normal; min-width: 7.5rem; overflow-wrap: anywhere }
}
"""

# An empty cell stays below, whichever way a column is sorted.
_SCRIPT = """
document.querySelectorAll("thead button").forEach(button => button.addEventListener("click", () => {
  const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "descending" ||
    (head.classList.contains("text") && !head.hasAttribute("aria-sort"));
  table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "ascending" : "descending");
  const place = head.cellIndex, sign = down ? 1 : -1, text = head.classList.contains("text");
  const of = row => row.cells[place].dataset.value;
  [...body.rows].sort((a, b) => {
    if (of(a) === "" || of(b) === "") return (of(a) === "") - (of(b) === "");
    return sign * (text ? of(a).localeCompare(of(b)) : of(a) - of(b));
  }).forEach(row => body.append(row));
}));
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows, in a sentence."""

    path: Path
    caption: str


def html(
    title: str,
    blocks: Blocks,
    notes: Sequence[str],
    breakdown: Blocks,
    pictures: Sequence[Picture],
    provenance: Sequence[tuple[str, str]],
) -> str:
    """The page.

    Args:
        title: of the page.
        blocks: the table.
        notes: its caption.
        breakdown: by method and category, folded up.
        pictures: read and put into the page.
        provenance: method, and how its run was made.
    """
    parts = [f"<h1>{escape(title)}</h1>", "<ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    parts += [_table(heading, block) for heading, block in blocks.items()]
    parts += ["<h2>Figures</h2>", *map(_figure, pictures)]
    if breakdown:
        parts.append("<h2>By category</h2>")
        parts += [
            f"<details><summary>{escape(heading)}</summary>{_table(heading, block)}</details>"
            for heading, block in breakdown.items()
        ]
    if provenance:
        parts += ["<h2>Runs</h2>", "<dl>"]
        parts += [f"<dt>{escape(method)}</dt><dd>{escape(said)}</dd>" for method, said in provenance]
        parts.append("</dl>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _table(heading: str, block: pd.DataFrame) -> str:
    heads = [f'<th class="text" scope="col"><button>{name}</button></th>' for name in block.index.names]
    heads += [f'<th scope="col"><button>{escape(c)}</button></th>' for c in (*block["value"], "n")]
    printed, best = printed_cells(block)
    if "category" in block.index.names:
        best[:] = False
    labels = block.index.to_frame().to_numpy().tolist()
    cells = zip(*(frame.to_numpy() for frame in (printed, best, block["value"], block["low"], block["high"])),
                strict=True)  # fmt: skip
    rows = [
        _row(texts, zip(*row, strict=True), n)
        for texts, row, n in zip(labels, cells, counts(block), strict=True)
    ]
    return (
        f'<div class="scroll"><table><caption>{escape(heading)}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _row(labels: Sequence[str], row: Iterable[tuple[str, bool, float, float, float]], n: str) -> str:
    """A row of method (and category), cells of text, whether it is the best, value and interval, and n."""
    published = labels[0].endswith(PUBLISHED_SUFFIX)
    kind = "published" if published else "whole" if labels[-1] in (ALL, CLASS_MEAN) else ""
    cells = [f'<td class="text" data-value="{escape(text)}">{escape(text)}</td>' for text in labels]
    for text, best, value, low, high in row:
        if not text:
            cells.append('<td data-value=""></td>')
            continue
        number = f"<b>{text}</b>" if best else text
        if not math.isnan(low):
            number += f"<small>{low:.1f} to {high:.1f}</small>"
        cells.append(f'<td data-value="{value:.6f}">{number}</td>')
    cells.append(f'<td data-value="{n}">{n}</td>')
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _figure(picture: Picture) -> str:
    inside = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{inside}" alt="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
