"""docs/inputs.md says what the tests of inputs say; `python tests/test_inputs_page.py` writes its tables again."""

from pathlib import Path

from inputs.gates import GATES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inputs.md"
BEGIN = "<!-- inputs:begin (written by python tests/test_inputs_page.py) -->\n"
END = "<!-- inputs:end -->\n"


def generated():
    """Return a table for each gate: the kind of input, what is said, what is done."""
    lines = []
    for gate in GATES:
        lines += [f"## {gate.TITLE}", "", gate.ABOUT, "", "| input | what is said | what is done |", "|---|---|---|"]
        for given in gate.INPUTS:
            told = f"... {given.said or given.noted} ..." if given.said or given.noted else "nothing"
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (given.kind, told, given.done)) + " |")
        lines.append("")
    return "\n".join(lines)


def written():
    """Return the page with its generated part made anew."""
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    return text.partition(BEGIN)[0] + BEGIN + generated() + END + text.partition(END)[2]


def test_the_page_is_what_the_tests_say():
    assert PAGE.read_text() == written(), "run: python tests/test_inputs_page.py"
    assert all(f"## {gate.TITLE}\n" in PAGE.read_text() for gate in GATES)


if __name__ == "__main__":
    PAGE.write_text(written())
