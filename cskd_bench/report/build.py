"""One call from a results folder to tables, figures and the page."""

import gc
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from cskd_bench.errors import UserError
from cskd_bench.names import readable, real_path
from cskd_bench.report import terminal
from cskd_bench.report.compare import compare
from cskd_bench.report.data import csv_table, plain_json
from cskd_bench.report.figure import figure
from cskd_bench.report.forest import forest
from cskd_bench.report.latex import latex
from cskd_bench.report.markdown import markdown
from cskd_bench.report.page import page
from cskd_bench.report.parts import refresh
from cskd_bench.report.plans import read_plans
from cskd_bench.report.processes import share
from cskd_bench.report.published import Match, Published, match, read_published
from cskd_bench.report.selection import LeftOut, select
from cskd_bench.report.tables import Comparison

FORMATS: Final = ("terminal", "md", "forest", "svg", "csv", "latex", "json", "html")
COMMITTED: Final = ("md", "forest", "svg")  # what `check_report` holds to the records
FILES: Final = {
    "md": "LEADERBOARD.md",
    "forest": "primary.svg",
    "svg": "leaderboard.svg",
    "csv": "leaderboard.csv",
    "latex": "leaderboard.tex",
    "json": "leaderboard.json",
    "html": "leaderboard.html",
}
RENDERING: Final = {"html": 15, "json": 3, "md": 1, "forest": 0, "svg": 1, "csv": 1, "latex": 1}  # shares of the time
WORTH_SHARING: Final = 2000  # records; the formats of fewer are rendered in a fifth of a second


@dataclass(frozen=True)
class Report:
    """A finished report: what it compares and where its files are."""

    comparison: Comparison
    published: tuple[Published, ...]
    matches: tuple[Match, ...]
    files: dict[str, Path]

    def show(self, console: Console | None = None) -> None:
        """Print the tables to the terminal."""
        terminal.show(self.comparison, self.matches, console or Console())

    def show_answers(self, console: Console | None = None) -> None:
        """Print the answers to the primary contrasts alone."""
        terminal.show_answers(self.comparison, console or Console())


def build_report(
    results: Path,
    output: Path,
    *,
    formats: Sequence[str] = FORMATS,
    include_dirty: bool = False,
    published: bool = True,
    into: Sequence[Path] = (),
    processes: int = 1,
) -> Report:
    """Read `results`/records and published.toml, write the leaderboard in each format into `output`.

    `terminal` writes nothing; call `Report.show`. `into`: Markdown files whose parts between marks are
    written again; see `parts.refresh`. A broken record is named in the report and left out.
    `processes`: how many forked ones may share the work, where there is much; see `compare`.
    UserError: an unknown format, no records folder, an output folder that cannot be written, a file without marks,
    or with marks that cannot be read.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"no report format {name!r}; there are {', '.join(FORMATS)}")
    with _without_cycle_collection():
        comparison, rows, matches = _measure(results, include_dirty, published, processes)
        names = [name for name in formats if name in FILES]
        texts = share(
            lambda number: _render(names[number], results, comparison, rows, matches),
            [RENDERING[name] for name in names],
            processes if comparison.records >= WORTH_SHARING else 1,
        )
    rendered = dict(zip(names, texts, strict=True))
    for path, text in _refreshed(into, results, comparison, output).items():
        _write(path, text)
    files = {name: output / FILES[name] for name in rendered}
    for name, text in rendered.items():
        _write(files[name], text)
    return Report(comparison, tuple(rows), tuple(matches), files)


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Pause the search for cycles: records hold none, and looking for them nearly doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_report(
    results: Path,
    output: Path | None = None,
    *,
    include_dirty: bool = False,
    into: Sequence[Path] = (),
    processes: int = 1,
) -> None:
    """UserError if the Markdown, a figure or a part of a page in `into` is missing or is not what the records say now.

    `output` is the folder that the report was written into, by default `results`.
    """
    measured = _measure(results, include_dirty, published=True, processes=processes)
    folder = output or results
    expected = {folder / FILES[name]: _render(name, results, *measured) for name in COMMITTED}
    pages = _refreshed(into, results, measured[0], folder)
    for path, text in (expected | pages).items():
        if _read(path, "" if path in pages else None) != text:
            words = [] if results == Path("results") else ["--results", str(results)]
            words += ["--output", str(output)] if output else []
            words += ["--include-dirty"] if include_dirty else []
            words += ["--into", str(path)] if path in pages else []
            todo = f"run `{shlex.join(['cskd-bench', 'report', *words])}`"
            raise UserError(f"{path}: stale: the records in {results} say something else; {todo}")


def _refreshed(into: Sequence[Path], results: Path, comparison: Comparison, output: Path) -> dict[Path, str]:
    """Return the text of each page with its parts written again."""
    return {path: refresh(path, _read(path, ""), results, comparison, output / FILES["forest"]) for path in into}


def _read(path: Path, newline: str | None = None) -> str:
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _measure(
    results: Path, include_dirty: bool, published: bool, processes: int
) -> tuple[Comparison, list[Published], list[Match]]:
    records = results / "records"
    comparison = compare(records, select(records, include_dirty=include_dirty), read_plans(results), processes)
    rows: list[Published] = []
    source = results / "published.toml"
    if published and source.exists():
        try:
            rows = read_published(source)
        except UserError as error:
            comparison.left_out.append(LeftOut(source.name, str(error).removeprefix(f"{source}: ")))
    comparison.left_out.extend(_failed_cells(results / "failures.json"))
    return comparison, rows, match(rows, comparison)


def _failed_cells(path: Path) -> list[LeftOut]:
    """Return the cells that `bench` could not finish, with their errors."""
    if not path.exists():
        return []
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))
        return [LeftOut(readable(str(cell["cell"])), readable(f"failed: {cell['error']}")) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [LeftOut(path.name, "is not the list of failed cells that `cskd-bench bench` writes")]


def _render(name: str, results: Path, comparison: Comparison, rows: list[Published], matches: list[Match]) -> str:
    match name:
        case "md":
            return markdown(comparison, rows, matches)
        case "forest":
            return forest(comparison.primary)
        case "svg":
            return figure(comparison)
        case "csv":
            return csv_table(comparison)
        case "latex":
            return latex(comparison)
        case "json":
            return plain_json(comparison, rows, matches)
        case _:
            return page(results / "records", comparison, rows, matches)


def _write(path: Path, text: str) -> None:
    """Replace a generated file in one step, so that a reader never sees half of it; a link stays, its file changes."""
    target = real_path(path)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)  # there only where writing failed
