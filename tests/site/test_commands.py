"""Every command that a page shows is one that the program understands, with files that are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from cskd_bench.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("bash", "sh", "")


def read_commands(text):
    """Yield the words of each command of ours in a page's code blocks and in its inline code."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("fence", "code_block") and token.info in SHELL:
            for line in token.content.replace("\\\n", " ").splitlines():
                yield from read_line(line)
        for child in token.children or []:
            if child.type == "code_inline" and child.content.startswith("cskd-bench "):
                yield from read_line(child.content)


def read_line(line):
    """Yield the words after `cskd-bench`, or after `-m cskd_bench.cli`, up to the shell's next command."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation that ends elsewhere
        return
    for name in ("cskd-bench", "cskd_bench.cli"):
        if name in words:
            after = words[words.index(name) + 1 :]
            ends = [n for n, word in enumerate(after) if word in ("&&", "||", "|", ";", "&", ">", "2>", "<<<")]
            yield after[: min(ends, default=len(after))]


def is_shorthand(words):
    """Whether it stands for several commands, and is not meant to be typed."""
    written = " ".join(words)
    return "..." in written or "|" in written or words[0].isupper()


def is_understood(words):
    """Whether the program's parser takes a command, or shows its help."""
    try:
        build_parser().parse_args(words)
    except SystemExit as stopped:
        return not stopped.code
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page, capsys):
    refused = []
    for words in read_commands(page.read_text(encoding="utf-8")):
        kept = [word for word in words if not word.startswith("$")]  # a variable may be one word, or several
        named = [*words, "--help"] if len(words) <= 2 else words  # text may name a verb without its arguments
        if not (is_shorthand(words) or any(map(is_understood, (words, kept, named)))):
            refused.append((" ".join(words), capsys.readouterr().err.strip()))
    assert refused == []


def test_every_shipped_file_that_a_command_names_is_there():
    named = {
        word
        for page in PAGES
        for words in read_commands(page.read_text(encoding="utf-8"))
        for word in words
        if re.fullmatch(r"(?:configs|tasks|results|examples)/[\w./-]+\.\w+", word)
    }
    assert len(named) > 5
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_commands_are_found_in_blocks_and_in_text():
    block = "```bash\nA=1 cskd-bench a b \\\n    --c d  # why\ntorchrun -m cskd_bench.cli e f && x\n```\n"
    text = f"```python\nx\n```\n\n{block}\nAnd `cskd-bench g\nh`."
    assert list(read_commands(text)) == [["a", "b", "--c", "d"], ["e", "f"], ["g", "h"]]


@pytest.mark.gate
def test_scripts_that_a_page_runs_start_by_themselves():
    """Outside of pytest, which would find their helpers for them."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = sorted(set(re.findall(r"python ((?:tests|support|examples)/[\w./]+\.py)", text)))
    scripts = [ROOT / name for name in named if "argparse" in (ROOT / name).read_text(encoding="utf-8")]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    broken = {}
    for script in scripts:
        done = subprocess.run(
            [sys.executable, script, "--help"], env=alone, cwd=ROOT, text=True, capture_output=True, check=False
        )
        if done.returncode:
            broken[script.name] = done.stderr[-300:]
    assert "take_pictures.py" in [script.name for script in scripts] and broken == {}
