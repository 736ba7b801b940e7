"""Marks: the pairs of comments in a Markdown page between which `cskd-bench report` writes."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cskd_bench.errors import UserError

BEGIN: Final = "<!-- cskd-bench report -->"
END: Final = "<!-- end of cskd-bench report -->"
FORM: Final = '<!-- cskd-bench report: PART "TEXT", FOLDER -->'
MARK: Final = re.compile(
    r"^\ufeff?<!-- (?:(?P<end>end of cskd-bench report)|cskd-bench report\b(?P<rest>.*?)) -->[ \t]*(?=\r?$)", re.M
)
FENCE: Final = re.compile(
    r"^ {0,3}(?P<ticks>`{3,}(?=[^`\n]*$)|~{3,}).*?(?:^ {0,3}(?P=ticks)[`~]*[ \t]*\r?$|\Z)", re.M | re.S
)
REST: Final = re.compile(r':\s*(?P<part>[\w-]+)(?P<texts>(?:\s+"[^"]+")*)(?:,\s*(?P<folder>[^\s",][^",]*))?\s*')


@dataclass(frozen=True, slots=True)
class Mark:
    """An opening mark: which part it asks for, and where in the page's text that part stands."""

    part: str  # empty: the bare mark
    texts: tuple[str, ...]  # what a table, column or contrast must name to be in the part
    folder: str  # the results folder, relative to the page; empty: any
    line: int
    start: int  # of the text between the marks
    end: int

    @property
    def words(self) -> str:
        """The part and its texts, as the mark names them."""
        return " ".join([self.part, *(f'"{text}"' for text in self.texts)])


def read_marks(text: str, where: str, parts: Collection[str]) -> list[Mark]:
    """Return a page's marks in their order, those in fenced code apart.

    UserError names the line of one that is unknown, nested or without end.
    """
    code = [found.span() for found in FENCE.finditer(text)]
    marks: list[Mark] = []
    opened: Mark | None = None
    for found in MARK.finditer(text):
        if any(start < found.start() < end for start, end in code):
            continue
        line = text.count("\n", 0, found.start()) + 1
        if found["end"] is None:
            if opened is not None:
                raise UserError(
                    f"{where}, line {line}: a part begins inside the one of line {opened.line}; end that first"
                )
            opened = _read(found["rest"], f"{where}, line {line}", parts, line, found.end())
        elif opened is None:
            raise UserError(f"{where}, line {line}: no part begins before this end; delete the line")
        else:
            marks.append(Mark(opened.part, opened.texts, opened.folder, opened.line, opened.start, found.start()))
            opened = None
    if opened is not None:
        raise UserError(f"{where}, line {opened.line}: the part has no end; put the line {END} after it")
    return marks


def _read(rest: str, where: str, parts: Collection[str], line: int, start: int) -> Mark:
    if not rest.strip():
        return Mark("", (), "", line, start, start)
    found = REST.fullmatch(rest)
    if found is None:
        raise UserError(f"{where}: the mark cannot be read; write {FORM}, without TEXT and FOLDER where not needed")
    if found["part"] not in parts:
        raise UserError(f"{where}: there is no part {found['part']!r}; there are {', '.join(parts)}")
    folder = (found["folder"] or "").strip()
    return Mark(found["part"], tuple(re.findall(r'"([^"]+)"', found["texts"])), folder, line, start, start)


def with_parts(text: str, marks: Sequence[Mark], write: Callable[[Mark], str]) -> str:
    """Return a page's text with what stands after each of some of its marks written again, in its own line ends."""
    pieces, done = [], 0
    for mark in marks:
        end = "\r\n" if text.startswith("\r\n", mark.start) else "\n"
        pieces += [text[done : mark.start], f"\n\n{write(mark)}\n\n".replace("\n", end)]
        done = mark.end
    return "".join([*pieces, text[done:]])
