"""The report as booktabs LaTeX for a two-column paper: the primary contrasts first, then every table."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from cskd_bench.report import words
from cskd_bench.report.anchors import table_anchor
from cskd_bench.report.latex_text import breakable, latex_text
from cskd_bench.report.primary import EXPLORATORY, GATES, MARKS, NO_PLAN
from cskd_bench.report.rows import Row, difference_rows, one_line
from cskd_bench.report.selection import Setting
from cskd_bench.report.tables import Comparison, ContrastResult, Table
from cskd_bench.report.titles import titles

SCORES: Final = 5  # columns beside each other in the width of a page
DIFFERENCES: Final = 3
NARROW: Final = 1  # columns in the width of a column
ROWS: Final = 40  # of one part
NEEDS: Final = r"% Needs \usepackage{booktabs,graphicx}. "
Item = TypeVar("Item")


def latex(comparison: Comparison) -> str:
    """Return the primary contrasts and every table as LaTeX, ready for \\input."""
    parts = [NEEDS + one_line(words.legend(comparison.tables)).replace("%", "percent"), _primary(comparison)]
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        label = f"tab:{table.group}-{table_anchor(table)[2:8]}"
        parts.extend(_scores(table, title, label))
        parts.extend(_differences(table, title, label, comparison))
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- primary contrasts, in one column


def _primary(comparison: Comparison) -> str:
    """Return one table of the width of a column (3.25 inches): contrast, difference, simultaneous interval, answer."""
    if not comparison.primary:
        return f"% {NO_PLAN}"
    caption = (
        "Primary contrasts: difference in points over $n$ seeds. The 95\\% intervals hold for all contrasts at once. "
        r"$\uparrow$ higher, $\downarrow$ lower, $\approx$ equal within the band, $\circ$ not shown, ? not tested."
    )
    body = [
        r"\begin{tabular}{@{}l@{\ \ }r@{\ \ }r@{\ \ }c@{}}",
        r"\toprule",
        r"contrast & difference & interval & \\",
        r"\midrule",
        *map(_contrast, comparison.primary),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return _float("table", r"\columnwidth", r"\footnotesize", caption, "tab:primary", body)


def _contrast(result: ContrastResult) -> str:
    where = rf"\scriptsize {breakable(result.where)}, $n={result.seeds}$\rule[-4pt]{{0pt}}{{4pt}}"
    name = rf"\parbox[t]{{0.54\columnwidth}}{{\raggedright {breakable(result.name)}\newline{{{where}}}}}"
    difference = "--" if result.mean is None else latex_text(words.points(result.mean))
    interval = latex_text(words.interval(result.simultaneous or result.interval, signed=True)) or "--"
    return rf"{name} & {difference} & {interval} & {latex_text(MARKS[result.answer])} \\"


# ---------------------------------------------------------------- tables


def _scores(table: Table, title: str, label: str) -> Iterator[str]:
    for number, settings in enumerate(_chunks(table.settings, SCORES)):
        rows = []
        for method in table.methods:
            row = [latex_text(words.method(method, table.methods))]
            for setting in settings:
                cell = table.cells.get((method, setting))
                text = latex_text(words.score(cell)) if cell else "--"
                row.append(rf"\textbf{{{text}}}" if cell and cell.best else text)
            rows.append(row)
        head = ["method", *(_column(setting, table) for setting in settings)]
        caption = f"{breakable(f'{table.group.capitalize()}: {title}')}{_part(number)}."
        yield from _tabular(head, rows, caption, f"{label}{_suffix(number)}")


def _differences(table: Table, title: str, label: str, comparison: Comparison) -> Iterator[str]:
    """Yield the paired differences, a few columns at a time."""
    pairs = [
        (f"{words.method(m, table.methods)} − {words.method(base, table.methods)}", row)
        for m, base, row in difference_rows(table)
    ]
    kind = EXPLORATORY if comparison.primary else "Paired differences"
    columns = list(range(len(table.settings))) if pairs else []
    for number, places in enumerate(_chunks(columns, DIFFERENCES)):
        head = ["difference", *(_column(table.settings[place], table) for place in places)]
        rows = [[latex_text(name), *(latex_text(row[place]) for place in places)] for name, row in pairs]
        caption = (
            f"{kind}. {breakable(f'{table.group.capitalize()}: {title}')}{_part(number)}. {latex_text(table.power)}"
        )
        if comparison.primary and not number:
            caption += f" {latex_text(GATES[table.gate])}"
        yield from _tabular(head, rows, caption.strip(), f"{label}-differences{_suffix(number)}")


def _column(setting: Setting, table: Table) -> str:
    """Return a column's heading: its task, and below that how it was measured."""
    return rf"\shortstack[r]{{{latex_text(setting.task)}\\{latex_text(words.column(setting, table.settings))}}}"


def _tabular(head: Sequence[str], rows: Sequence[Row], caption: str, label: str) -> Iterator[str]:
    """Yield one float per forty rows, as wide as a column where it is narrow, else as wide as the page."""
    narrow = len(head) - 1 <= NARROW
    for number, some in enumerate(_chunks(rows, ROWS)):
        body = [
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in some),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        kind, width = ("table", r"\columnwidth") if narrow else ("table*", r"\textwidth")
        more = r" (continued)" if number else ""
        yield _float(kind, width, r"\small", caption + more, f"{label}{'-rows' * bool(number)}{_suffix(number)}", body)


def _float(kind: str, width: str, size: str, caption: str, label: str, body: Sequence[str]) -> str:
    """Return a float whose table is scaled down where it is wider than its place."""
    fitted = rf"\resizebox{{\ifdim\width>{width} {width}\else\width\fi}}{{!}}{{%"
    return "\n".join(
        [
            rf"\begin{{{kind}}}",
            rf"{size}\sloppy",
            r"\centering\setlength{\abovecaptionskip}{0pt}\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            fitted,
            *body[:-1],
            body[-1] + "}",
            rf"\end{{{kind}}}",
        ]
    )


def _chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _suffix(number: int) -> str:
    return f"-{number + 1}" if number else ""


def _part(number: int) -> str:
    return f", part {number + 1}" if number else ""
