"""The fault matrix as a table of docs/reliability.md; test_faults.py writes it where CSKD_BENCH_WRITE_DOCS is set."""

from pathlib import Path

from fault_matrix import FAULTS, Fault, cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- fault matrix -->\n\n", "\n\n<!-- end of the fault matrix -->"
HEAD = "| fault on one rank | every rank says | exit code | cases | all ended within | same command continues |"


def row(fault: Fault) -> list[str]:
    """Return the cells of a fault's line, but for the seconds."""
    count = sum(one is fault for one, _, _ in cases())
    ranks = " and ".join(map(str, fault.ranks))
    where = f"{count}: rank {ranks}, {' and '.join(fault.precisions)}"
    goes_on = (
        ("yes, to the same bits" if fault.same_end else "yes") if fault.goes_on else "no: another --results folder"
    )
    return [fault.what, f"... {fault.says} ...", str(fault.code), where, goes_on]


def table(slowest: dict[str, float]) -> str:
    """Return the table, with the seconds of each fault's slowest case."""
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for fault in FAULTS:
        *cells, goes_on = row(fault)
        lines.append(f"| {' | '.join(cells)} | {slowest[fault.what]:.1f} s | {goes_on} |")
    return "\n".join(lines)


def parts_of_page() -> tuple[str, str, str]:
    """Return what stands before the table, the table, and what stands after it."""
    before, began, rest = PAGE.read_text().partition(BEGIN)
    shown, ended, after = rest.partition(END)
    assert began and ended, f"{PAGE}: lacks the marks of its table"
    return before, shown, after


def write(slowest: dict[str, float]) -> None:
    """Replace the page's table."""
    before, _, after = parts_of_page()
    PAGE.write_text(f"{before}{BEGIN}{table(slowest)}{END}{after}")
