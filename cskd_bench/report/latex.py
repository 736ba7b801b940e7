"""The report as booktabs LaTeX; names are escaped, so that none becomes a command."""

from collections.abc import Sequence
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.rows import Row, difference_rows, one_line
from cskd_bench.report.tables import Comparison

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "[": "{[}",
    "]": "{]}",
    "`": r"\textasciigrave{}",
}


def latex_text(text: str) -> str:
    """Escape a name for LaTeX text."""
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def _latex_tabular(head: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    lines = [
        r"\begin{table*}",
        r"\small",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines)


def latex(comparison: Comparison) -> str:
    """Return every table as booktabs LaTeX, ready for \\input."""
    parts = ["% Needs \\usepackage{booktabs}. " + one_line(words.LEGEND).replace("%", "percent")]
    for table in comparison.tables:
        columns = [latex_text(f"{setting.task}, {words.column(setting, table.settings)}") for setting in table.settings]
        scores = []
        for method in table.methods:
            row = [latex_text(words.method(method, table.methods))]
            for setting in table.settings:
                cell = table.cells.get((method, setting))
                text = latex_text(words.score(cell)) if cell else "--"
                row.append(rf"\textbf{{{text}}}" if cell and cell.best else text)
            scores.append(row)
        title = latex_text(f"{table.group}: {words.title(table)}")
        parts.append(_latex_tabular(["Method", *columns], scores, title))
        differences = [
            [
                f"{latex_text(words.method(m, table.methods))} $-$ {latex_text(words.method(base, table.methods))}",
                *map(latex_text, row),
            ]
            for m, base, row in difference_rows(table)
        ]
        if differences:
            caption = f"{title}, paired differences. {latex_text(table.power)}"
            parts.append(_latex_tabular(["Difference", *columns], differences, caption))
    return "\n\n".join(parts) + "\n"
