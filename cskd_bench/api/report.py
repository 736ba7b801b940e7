"""The report, without the command line; needs no torch."""

from collections.abc import Sequence
from pathlib import Path

from cskd_bench.report import build
from cskd_bench.report.build import FORMATS, Report


def build_report(
    results: str | Path,
    output: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    include_dirty: bool = False,
    published: bool = True,
) -> Report:
    """Read `results`/records and published.toml, write the leaderboard in each format into `output`.

    `files` of what is returned names them by format (md, svg, csv, latex, json, html); `show()` prints the tables.
    UserError for an unknown format, a missing records folder, and an output folder that cannot be written.
    """
    return build.build_report(
        Path(results), Path(output), formats=formats, include_dirty=include_dirty, published=published
    )
