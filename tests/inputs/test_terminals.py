"""Terminals and logs that are not UTF-8: signs that they lack are replaced, and nothing fails."""

import io
import re
import sys
from pathlib import Path

import pytest
from helpers.inputs import Input, transfer
from helpers.tiny import save_model
from inputs.places import LATIN, folders

import cskd_bench
from cskd_bench.cli import main
from cskd_bench.verbs.surroundings import PLAIN, mend_environment, prepare_streams

PACKAGE = Path(cskd_bench.__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Records of a data set with a class whose name is not UTF-8."""
    root = tmp_path_factory.mktemp("terminal")
    folders(root / "data", (LATIN, "b", "c"))
    model = save_model(root / "w.safetensors", "test_vit")
    assert transfer(Input("", folders, done="used"), root / "data", model) == 0
    return root / "results"


def said(monkeypatch, coding, words):
    """Return what a command writes to a terminal of a coding, both streams together."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=coding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    try:
        assert main(words) in (0, 1)
    except SystemExit as ended:
        assert ended.code == 0
    for stream in streams.values():
        stream.flush()
    return b"".join(stream.buffer.getvalue() for stream in streams.values()).decode(coding)


@pytest.mark.parametrize("coding", ["latin-1", "ascii", "cp1252"])
def test_a_report_is_shown_on_any_terminal(results, monkeypatch, coding):
    text = said(monkeypatch, coding, ["report", "--results", str(results), "--include-dirty"])
    plus_minus = "+/-" if coding == "ascii" else "±"
    assert f"mean {plus_minus} standard deviation" in text
    assert "(+) (-): a lead" in text or "shown at 95%" in text
    assert "\\u" not in text


@pytest.mark.parametrize(
    "words",
    ["--help", "tasks list", "tasks show digits", "methods list", "methods show cskd", "configs"],
)
def test_verbs_speak_ascii(monkeypatch, words):
    text = said(monkeypatch, "ascii", words.split())
    assert text.isascii() and text.strip()


def test_bytes_of_a_name_are_escapes_on_a_terminal_in_utf_8(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print(f"{LATIN} ±")
    stream.flush()
    assert stream.buffer.getvalue() == "caf\\xe9 ±\n".encode()


def test_every_sign_of_ours_has_a_plain_form():
    """latin_text and data write files alone."""
    files = [file for file in PACKAGE.rglob("*.py") if file.name not in ("latex_text.py", "data.py", "surroundings.py")]
    used = set("".join(file.read_text(encoding="utf-8") for file in files))
    assert {sign for sign in used if not sign.isascii()} <= PLAIN.keys()
    assert all(plain.isascii() and re.fullmatch(r"[ -~]+", plain) for plain in PLAIN.values())


@pytest.mark.parametrize("value", ["0", "abc", "", "-3", "８０"])
def test_widths_that_are_none_are_dropped(value):
    environment = {"COLUMNS": value, "LINES": "40", "MPLBACKEND": "module://notebook"}
    mend_environment(environment)
    assert environment == {"LINES": "40", "MPLBACKEND": "agg"}


def test_closed_streams_are_replaced(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    prepare_streams()
    assert sys.stdout.write("to nowhere") == 10
