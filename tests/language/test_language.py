"""The product's English: short sentences and the field's words, in its pages, help texts and messages."""

import re
import tomllib
from pathlib import Path

import pytest

import cskd_bench
from cskd_bench import build_report
from language.prose import read_markdown, read_messages, read_page, read_texts, split_sentences

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(cskd_bench.__file__).parent
WORDS = tomllib.loads((Path(__file__).parent / "private_words.toml").read_text(encoding="utf-8"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 35  # of one sentence
MEAN_WORDS = 18  # of a page's sentences


def name_faults(sentences):
    """Return what is wrong with sentences: their length, and words that are ours alone."""
    long = [f"{s.where}: {s.words} words: {s.text[:80]}" for s in sentences if s.words > MOST_WORDS]
    private = [
        f"{s.where}: {found[0]!r}; write {instead}: {s.text[:80]}"
        for s in sentences
        for word, instead in WORDS.items()
        if (found := re.search(rf"\b({word})\b", s.text, re.IGNORECASE))
    ]
    return long + private


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_plain(page):
    prose, cells = read_markdown(page, ROOT)
    assert name_faults([*prose, *cells]) == []
    assert sum(s.words for s in prose) <= MEAN_WORDS * len(prose)


def test_messages_are_plain():
    messages = list(read_messages(PACKAGE))
    assert len(messages) > 500
    assert name_faults(messages) == []
    assert sum(s.words for s in messages) <= MEAN_WORDS * len(messages)


def test_help_texts_are_plain(help_texts):
    sentences = [s for verb, text in help_texts.items() for s in read_texts(text, verb)]
    assert len(sentences) > 150
    assert name_faults(sentences) == []


def test_the_report_is_plain(tmp_path):
    page = build_report(ROOT / "results", tmp_path, formats=["html"]).files["html"].read_text(encoding="utf-8")
    sentences = list(read_page(page))
    assert len(sentences) > 80
    assert name_faults(sentences) == []


@pytest.fixture
def help_texts():
    """Return each verb's description and its options' help."""
    from cskd_bench.cli import build_parser

    found, waiting = {}, [("cskd-bench", build_parser())]
    while waiting:
        name, parser = waiting.pop()
        texts = [parser.description or "", *(action.help or "" for action in parser._actions)]
        found[name] = "\n\n".join(texts)
        for action in parser._actions:
            choices = action.choices if isinstance(action.choices, dict) else {}
            waiting.extend((f"{name} {verb}", below) for verb, below in choices.items())
            if choices:
                found[name] += "\n\n" + "\n\n".join(line.help or "" for line in action._choices_actions)
    return found


def test_sentences_are_split_and_counted():
    text = 'Use `x`, e.g. Y. It takes 1.5 s (see Fig. 2). "Why?" Nobody asks.'
    found = list(split_sentences(text.replace("`x`", "¤"), "here"))
    assert [s.text for s in found] == ["Use ¤, e.g. Y.", "It takes 1.5 s (see Fig. 2).", '"Why?"', "Nobody asks."]
    assert [s.words for s in found] == [4, 7, 1, 2]
    assert len(name_faults(found)) == 1


def test_markdown_is_read_without_code_and_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading that counts for nothing\n\nOne [link](x.md) and `some code here`.\n\n"
        "```bash\nnot this\n```\n\n- An item.\n\n| a | b |\n|---|---|\n| A cell. | 2 |\n"
    )
    prose, cells = read_markdown(page, tmp_path)
    assert [s.text for s in prose] == ["One link and ¤.", "An item."]
    assert [s.text for s in cells] == ["a", "b", "A cell.", "2"]
    assert prose[0].where == "page.md:3"


def test_the_readme_answers_on_its_first_screen():
    """What it is, the answers with their figure, how to install and how to use it in Python; one table in all."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    first = "\n".join(lines[:45])
    assert len(lines) <= 150
    for part in ("by more than seed noise?", "primary.svg", "cskd-bench quickstart", "CSKDTask(", "*Status:"):
        assert part in first, part
    assert sum(line.startswith("|---") for line in lines) <= 1
