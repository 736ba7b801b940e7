"""The product's English, as sentences: of Markdown, of help texts, and of messages in the code."""

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

# A full stop, and the next sentence begins with a capital, code, a number, a quotation mark or a bracket.
END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]*(?:[A-Z0-9`¤↑△○]|\?:|cskd|timm|torch))")
NOT_ENDS: Final = re.compile(r"\b(e\.g|i\.e|vs|al|Fig|Eq|eq|No|cf|etc|approx|St)\.$")
CODE: Final = "¤"  # stands for inline code, a formula or a value: one word
WORD: Final = re.compile(r"[\w¤]")


@dataclass(frozen=True)
class Sentence:
    """One sentence, and where it stands."""

    where: str
    text: str

    @property
    def words(self) -> int:
        return sum(1 for word in self.text.split() if WORD.search(word))


def split_sentences(text: str, where: str) -> Iterator[Sentence]:
    """Yield the sentences of one paragraph."""
    start = ""
    for part in END.split(" ".join(text.split())):
        start = f"{start} {part}".strip()
        if NOT_ENDS.search(start):
            continue
        if WORD.search(start):
            yield Sentence(where, start)
        start = ""
    if WORD.search(start):
        yield Sentence(where, start)


def read_markdown(path: Path, root: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Return a page's sentences, and those of its tables' cells; headings and code do not count."""
    text = re.sub(r"\$\$.*?\$\$", CODE, path.read_text(encoding="utf-8"), flags=re.DOTALL)
    tokens = MarkdownIt("commonmark").enable("table").parse(_without_front_matter(text))
    prose: list[Sentence] = []
    cells: list[Sentence] = []
    opened, line = "", 0
    for token in tokens:
        if token.type.endswith("_open"):
            opened, line = token.type, token.map[0] if token.map else line
        if token.type != "inline" or opened == "heading_open":
            continue
        kept = cells if opened in ("th_open", "td_open") else prose
        kept.extend(split_sentences(_inline(token), f"{path.relative_to(root)}:{line + 1}"))
    return prose, cells


def read_messages(package: Path) -> Iterator[Sentence]:
    """Yield the sentences of all messages for users: what errors, requests to stop and findings of `doctor` say."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.endswith("Error") or name in ("Interrupted", "Finding"):
                for text in map(_constant_text, node.args):
                    yield from split_sentences(text, f"{file.relative_to(package.parent)}:{node.lineno}")


def read_texts(text: str, where: str) -> Iterator[Sentence]:
    """Yield the sentences of plain text, such as a verb's help: paragraphs are parted by empty lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        yield from split_sentences(paragraph, where)


def read_page(page: str) -> Iterator[Sentence]:
    """Yield the sentences of an HTML page outside of its tables, figures and scripts."""
    text = re.sub(r"<(script|style|svg|table)\b.*?</\1>", "", page, flags=re.DOTALL)
    text = re.sub(r"</(p|li|h\d|summary|figcaption|div|section|button|label|span)>", "\n\n", text)
    yield from read_texts(html.unescape(re.sub(r"<[^>]+>", "", text)), "page")


def _constant_text(node: ast.expr) -> str:
    """Return a string's text with one word for each value in it; empty for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else CODE for part in node.values)
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _constant_text(node.left) + _constant_text(node.right)
    return ""


def _inline(token: Token) -> str:
    kinds = {"code_inline": CODE, "softbreak": " ", "hardbreak": " ", "html_inline": ""}
    return "".join(
        kinds.get(child.type, child.content if child.type == "text" else "") for child in token.children or []
    )


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
