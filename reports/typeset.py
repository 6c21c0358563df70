"""A table on paper: blocks of rows, as Markdown and LaTeX with one decimal and the best of a column bold.

A block is a frame under a heading: indexed by method, of a breakdown by method and category; columns value,
low and high of every printed column, and n. A cell that was not measured is NaN, a published row has neither
interval nor n. DataFrame.to_latex and Styler write one block a table, to_markdown needs another package.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

Blocks = Mapping[str, pd.DataFrame]


def markdown(label: str, title: str, blocks: Blocks, notes: Sequence[str], figure: str) -> str:
    """GitHub Markdown: caption, one table a block, the figure's link, the notes as a list."""
    parts = [f"**{label}. {title}**"]
    for heading, block in blocks.items():
        header = [_escape_markdown(heading), *block["value"], "n"]
        grid = [header, ["---", *["---:"] * (len(header) - 1)]]
        grid += _grid(block, "**{}**", _escape_markdown)
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in grid))
    parts.append(f"![{label}]({figure})")
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(label: str, title: str, blocks: Blocks, notes: Sequence[str]) -> str:
    """A LaTeX table that needs no package; the blocks stand below each other, the notes in the caption."""
    widths = {len(block["value"].columns) + 2 for block in blocks.values()}
    assert len(widths) == 1, "blocks of one table have the same columns"
    (width,) = widths
    body = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\hline"]
    for heading, block in blocks.items():
        header = [heading, *block["value"], "n"]
        body.append(" & ".join(map(_escape_latex, header)) + r" \\ \hline")
        body += [" & ".join(cells) + r" \\" for cells in _grid(block, r"\textbf{{{}}}", _escape_latex)]
        body.append(r"\hline")
    caption = " ".join([f"{title}.", *notes])
    name = label.lower().replace(" ", "-")
    body += [r"\end{tabular}", rf"\caption{{{_escape_latex(caption)}}}", rf"\label{{{name}}}", r"\end{table}"]
    return "\n".join(body) + "\n"


def printed_cells(block: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values with one decimal, empty where not measured, and whether they print like their column's best."""
    printed = block["value"].map("{:.1f}".format)
    numbers = printed.astype(float)
    return printed.replace("nan", ""), numbers == numbers.max()


def counts(block: pd.DataFrame) -> list[str]:
    """n of every row, empty of a published one."""
    return ["" if pd.isna(n) else str(n) for n in block["n"]]


def _grid(block: pd.DataFrame, bold: str, escape: Callable[[str], str]) -> list[list[str]]:
    """Method, cells and n of every row. Cells that print alike as the best of their column are all bold."""
    printed, best = printed_cells(block)
    cells = printed.where(~best, printed.map(bold.format)).to_numpy().tolist()
    return [
        [escape(method), *row, n] for method, row, n in zip(block.index, cells, counts(block), strict=True)
    ]


def _escape_markdown(text: str) -> str:
    return "".join("\\" + c if c in "\\|*_`<>[]" else c for c in text.replace("\n", " "))


def _escape_latex(text: str) -> str:
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    names |= {"π": r"$\pi$", "α": r"$\alpha$"} | {c: "\\" + c for c in "&%$#_{}"}
    return "".join(names.get(c, c) for c in text.replace("\n", " "))
