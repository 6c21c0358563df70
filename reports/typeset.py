"""A table on paper: blocks of rows, as Markdown and LaTeX with one decimal and the best of a column bold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ntdm.reports.measures import Estimate

Cell = Estimate | None  # None: not measured, an empty cell, never 0


@dataclass(frozen=True)
class Line:
    """One method's cells, in the block's column order; n samples, None for a published row."""

    method: str
    cells: tuple[Cell, ...]
    n: int | None
    published: bool
    category: str = ""  # of a breakdown


@dataclass(frozen=True)
class Block:
    """Lines under one header: a metric over columns, or (Table 3) several metrics."""

    heading: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def markdown(label: str, title: str, blocks: Sequence[Block], notes: Sequence[str], figure: str) -> str:
    """GitHub Markdown: caption, one table a block, the figure's link, the notes as a list."""
    parts = [f"**{label}. {title}**"]
    for block in blocks:
        header = [_escape_markdown(block.heading), *block.columns, "n"]
        grid = [header, ["---", *["---:"] * (len(header) - 1)]]
        grid += _grid(block, "**{}**", _escape_markdown)
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in grid))
    parts.append(f"![{label}]({figure})")
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(label: str, title: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """A LaTeX table that needs no package; the blocks stand below each other, the notes in the caption."""
    assert len({len(block.columns) for block in blocks}) == 1, "blocks of one table have the same columns"
    width = len(blocks[0].columns) + 2
    body = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\hline"]
    for block in blocks:
        header = [block.heading, *block.columns, "n"]
        body.append(" & ".join(map(_escape_latex, header)) + r" \\ \hline")
        body += [" & ".join(cells) + r" \\" for cells in _grid(block, r"\textbf{{{}}}", _escape_latex)]
        body.append(r"\hline")
    caption = " ".join([f"{title}.", *notes])
    name = label.lower().replace(" ", "-")
    body += [r"\end{tabular}", rf"\caption{{{_escape_latex(caption)}}}", rf"\label{{{name}}}", r"\end{table}"]
    return "\n".join(body) + "\n"


def printed_cells(block: Block) -> tuple[list[list[str]], list[float | None]]:
    """The cells of every line with one decimal, and the best of every column as printed."""
    printed = [["" if cell is None else f"{cell.value:.1f}" for cell in line.cells] for line in block.lines]
    best = [
        max((float(text) for text in column if text), default=None) for column in zip(*printed, strict=True)
    ]
    return printed, best


def _grid(block: Block, bold: str, escape: Callable[[str], str]) -> list[list[str]]:
    """Printed cells of every line. Cells that print alike as the best of their column are all bold."""
    printed, best = printed_cells(block)
    return [
        [
            escape(line.method),
            *(bold.format(t) if t and float(t) == b else t for t, b in zip(texts, best, strict=True)),
            "" if line.n is None else str(line.n),
        ]
        for line, texts in zip(block.lines, printed, strict=True)
    ]


def _escape_markdown(text: str) -> str:
    return "".join("\\" + c if c in "\\|*_`<>[]" else c for c in text.replace("\n", " "))


def _escape_latex(text: str) -> str:
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    names |= {"π": r"$\pi$", "α": r"$\alpha$"} | {c: "\\" + c for c in "&%$#_{}"}
    return "".join(names.get(c, c) for c in text.replace("\n", " "))
