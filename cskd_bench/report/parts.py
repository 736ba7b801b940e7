"""Parts: what `cskd-bench report --into` can write into a Markdown page, each readable alone."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.names import real_path
from cskd_bench.report import words
from cskd_bench.report.markdown import (
    answer_list,
    box,
    column_names,
    difference_table,
    excerpt,
    markdown_table,
    markdown_text,
    method_name,
    plan_notes,
    score_table,
)
from cskd_bench.report.marks import BEGIN, END, Mark, read_marks, with_parts
from cskd_bench.report.primary import GATES
from cskd_bench.report.rows import PRIMARY
from cskd_bench.report.tables import Comparison, Table
from cskd_bench.report.teachers import TEACHER_HEAD, read_teachers, teacher_rows
from cskd_bench.report.titles import titles
from cskd_bench.report.training import training_table

Texts = Sequence[str]
Shown = tuple[str, Table, list[str]]  # a table's heading, its part that is shown, and the names of these columns
NO_RECORD: Final = "No record can be shown yet."
NO_CONTRAST: Final = "No plan declares exploratory contrasts."
NO_DIFFERENCE: Final = "There are no two methods to compare."
NO_CURVE: Final = "These records do not describe the last epoch of pretraining."
LAST_EPOCH: Final = (
    "Last epoch of pretraining: mean ± standard deviation over pretraining seeds (number of seeds). "
    "Described, not tested."
)
NO_TEACHER: Final = "No teacher was measured: `bank agreement --output` does it."
COUNTED: Final = (
    "How often a bank's labels name the class of the view's image, on training views. Described, not tested."
)
OF_PLAN: Final = f"{PRIMARY}: among the plan's primary contrasts."


@dataclass(frozen=True, slots=True)
class PageSource:
    """What parts are written from: a results folder, its comparison, and where its figure lies, seen from the page."""

    results: Path
    comparison: Comparison
    plot: str


def refresh(page: Path, text: str, results: Path, comparison: Comparison, plot: Path) -> str:
    """Return a page's text with the parts of one results folder written again; those of other folders stay.

    `plot`: where the figure of the primary contrasts lies. UserError: no part of this folder, a mark that cannot be
    read, a text that no table, column or contrast has.
    """
    here = real_path(page).parent
    marks = read_marks(text, str(page), PARTS)
    if not marks:
        raise UserError(f"{page}: has no place for the report; put the lines {BEGIN} and {END} where it should stand")
    ours = [mark for mark in marks if not mark.folder or real_path(here / mark.folder) == real_path(results)]
    if not ours:
        folders = ", ".join(dict.fromkeys(mark.folder for mark in marks))
        raise UserError(f"{page}: has no part for {results}; its marks name {folders}: give one of them as --results")
    way = Path(os.path.relpath(real_path(plot.parent) / plot.name, here)).as_posix()

    source = PageSource(results, comparison, way)

    def write(mark: Mark) -> str:
        if not mark.part:
            return excerpt(comparison, way)
        try:
            return PARTS[mark.part](source, mark.texts)
        except UserError as error:
            raise UserError(f"{page}, line {mark.line}: {error}") from error

    return with_parts(text, ours, write)


def _primary(source: PageSource, texts: Texts) -> str:
    """Return the answers to the primary contrasts and their figure, which holds all of them."""
    if texts:
        raise UserError("the part `primary` holds all primary contrasts; leave out the text in quotes")
    return box(source.comparison.primary, source.plot)


def _exploratory(source: PageSource, texts: Texts) -> str:
    """Return the answers to contrasts that plans declare as exploratory."""
    names = [f"{result.name} on {result.where}" for result in source.comparison.exploratory]
    found = [result for result, name in zip(source.comparison.exploratory, names, strict=True) if _has(name, texts)]
    if names and not found:
        raise _nothing(texts, "exploratory contrast", names)
    return "\n\n".join(["\n".join(answer_list(found)), *plan_notes(found)]) if found else NO_CONTRAST


def _scores(source: PageSource, texts: Texts) -> str:
    """Return score tables."""
    return _tables(source.comparison, texts, _told_scores)


def _told_scores(heading: str, table: Table, names: list[str]) -> Iterator[str]:
    best = any(table.cells[key].best for key in table.cells if key[1] in table.settings)
    legend = [words.SCORES, words.BOLD if best else "", words.mixed_features(table.settings)]
    yield f"**{heading}.** {' '.join(filter(None, legend))}"
    yield score_table(table, names)


def _differences(source: PageSource, texts: Texts) -> str:
    """Return the paired differences of tables."""
    return _tables(source.comparison, texts, _told_differences)


def _told_differences(heading: str, table: Table, names: list[str]) -> Iterator[str]:
    shown = difference_table(table, names)
    of_plan = OF_PLAN if f"| {PRIMARY} |" in shown else ""
    legend = [words.PAIRED, of_plan, GATES[table.gate], words.mixed_features(table.settings)]
    yield f"**{heading}.** {' '.join(filter(None, legend)) if shown else NO_DIFFERENCE}"
    if shown:
        yield shown
    if shown and table.power:
        yield f"{table.power} Holm family: {table.tests} tests."


def _training(source: PageSource, texts: Texts) -> str:
    """Return what the records of pretrainings hold of their last epoch."""
    pretrained = [
        setting for table in source.comparison.tables for setting in table.settings if setting.protocol == "pretrain"
    ]
    if not pretrained:
        return NO_RECORD
    return _tables(source.comparison, texts, _told_training, protocol="pretrain")


def _told_training(heading: str, table: Table, names: list[str]) -> Iterator[str]:
    for setting, name in zip(table.settings, names, strict=True):
        head, rows = training_table(table, setting)
        column = f", {markdown_text(name)}" if len(names) > 1 else ""
        yield f"**{heading}{column}.** {LAST_EPOCH if rows else NO_CURVE}"
        if rows:
            yield markdown_table(["method", *head], [[method_name(table, method), *row] for method, row in rows])


def _teachers(source: PageSource, texts: Texts) -> str:
    """Return how strong the teachers are on the views of runs."""
    rows = teacher_rows(read_teachers(source.results))
    names = [f"{teacher}, {data}" for teacher, data, *_ in rows]
    found = [row for row, name in zip(rows, names, strict=True) if _has(name, texts)]
    if rows and not found:
        raise _nothing(texts, "teacher", names)
    table = markdown_table(TEACHER_HEAD, [list(map(markdown_text, row)) for row in found])
    return f"{COUNTED}\n\n{table}" if found else NO_TEACHER


def _tables(
    comparison: Comparison, texts: Texts, tell: Callable[[str, Table, list[str]], Iterator[str]], protocol: str = ""
) -> str:
    """Return the tables and columns whose heading and name have all texts, each written by `tell`."""
    everything = list(_narrowed(comparison, [], protocol))
    if not everything:
        return NO_RECORD
    found = list(_narrowed(comparison, texts, protocol))
    if not found:
        raise _nothing(texts, "table with its columns", [heading for heading, _, _ in everything])
    return "\n\n".join(part for heading, table, names in found for part in tell(markdown_text(heading), table, names))


def _narrowed(comparison: Comparison, texts: Texts, protocol: str) -> Iterator[Shown]:
    """Yield tables with the columns of a protocol, by default of any, whose heading and name have all texts."""
    for table, title in zip(comparison.tables, titles(comparison.tables), strict=True):
        heading = f"{table.group.capitalize()}: {title}"
        named = [
            (setting, name)
            for setting, name in zip(table.settings, column_names(table), strict=True)
            if protocol in ("", setting.protocol) and _has(f"{heading} | {name}", texts)
        ]
        if named:
            yield heading, replace(table, settings=[setting for setting, _ in named]), [name for _, name in named]


def _has(name: str, texts: Texts) -> bool:
    return all(text.casefold() in name.casefold() for text in texts)


def _nothing(texts: Texts, kind: str, names: Sequence[str]) -> UserError:
    asked = " and ".join(f'"{text}"' for text in texts)
    return UserError(f"no {kind} has {asked}; there are: {'; '.join(dict.fromkeys(names))}")


PARTS: Final[dict[str, Callable[[PageSource, Texts], str]]] = {
    "primary": _primary,
    "exploratory": _exploratory,
    "scores": _scores,
    "differences": _differences,
    "training": _training,
    "teachers": _teachers,
}
