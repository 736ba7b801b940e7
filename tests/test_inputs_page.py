"""docs/inputs.md says what the tests of inputs say; `python tests/test_inputs_page.py` writes its tables again."""

import json
from pathlib import Path

from fuzz.page import hour_table
from inputs.gates import GATES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inputs.md"
BEGIN = "<!-- inputs:begin (written by python tests/test_inputs_page.py) -->\n"
END = "<!-- inputs:end -->\n"
FUZZ_BEGIN = "<!-- fuzz:begin (written by python tests/test_inputs_page.py from tests/fuzz/hour.json) -->\n"
FUZZ_END = "<!-- fuzz:end -->\n"


def generated():
    """Return a table for each gate: the kind of input, what is said, what is done."""
    lines = []
    for gate in GATES:
        lines += [
            f"## {gate.TITLE}",
            "",
            gate.ABOUT,
            "",
            "| input | a part of what is said | what is done |",
            "|---|---|---|",
        ]
        for given in gate.INPUTS:
            told = max(given.said, given.noted, key=len)
            told = f"`{told}`" if told else "nothing"
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (given.kind, told, given.done)) + " |")
        lines.append("")
    return "\n".join(lines)


def written():
    """Return the page with its generated parts made anew."""
    text = _replaced(PAGE.read_text(), BEGIN, generated(), END)
    return _replaced(text, FUZZ_BEGIN, hour_table(), FUZZ_END)


def _replaced(text, begin, part, end):
    assert text.count(begin) == text.count(end) == 1
    return text.partition(begin)[0] + begin + part + end + text.partition(end)[2]


def test_the_page_is_what_the_tests_say():
    assert PAGE.read_text() == written(), "run: python tests/test_inputs_page.py"
    assert all(f"## {gate.TITLE}\n" in PAGE.read_text() for gate in GATES)


def test_an_hour_of_fuzzing_is_told_as_its_summary_says(tmp_path):
    done = {"executions": 1234567, "seconds": 9.0, "edges": 89, "per_second": 1.0, "faults": ["timeout", "crash"]}
    summary = {"date": "2026-01-02", "commit": "0123abc", "seconds_each": 180, "targets": {"image": done}}
    (tmp_path / "hour.json").write_text(json.dumps(summary))
    table = hour_table(tmp_path / "hour.json")
    assert table.startswith("Run on 2026-01-02 at commit 0123abc, 180 s each: 1,234,567 inputs.\n")
    assert "| `image` | Decode bytes as an image | 1,234,567 | 89 | 2 | 0 |\n" in table
    assert "| `bank` |" in table and hour_table(tmp_path / "none").startswith("No hour")


if __name__ == "__main__":
    PAGE.write_text(written())
