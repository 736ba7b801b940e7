"""A folder of records as it may come from elsewhere: what is no record is left out, by name, and nothing hangs."""

import os

import pytest
from helpers.inputs import Input, transfer
from helpers.tiny import save_model
from inputs.places import LATIN, folders

from cskd_bench.cli import main

ODD = {
    "latin": lambda text: text.replace(b'"note": "', b'"note": "caf\xe9'),
    "utf16": lambda text: text.decode().encode("utf-16"),
    "bom": lambda text: b"\xef\xbb\xbf" + text,
    "nan": lambda text: text.replace(b'"seed": 0', b'"seed": NaN'),
    "digits": lambda text: text.replace(b'"seed": 0', b'"seed": ' + b"9" * 5000),
    "surrogate": lambda text: text.replace(b'"note": "', b'"note": "\\ud800'),
    "deep": lambda _: b"[" * 100_000,
    "long": lambda text: text.replace(b'"note": "', b'"note": "' + b"x" * 5_000_000),
    "zero": lambda _: b"\0" * 100,
    "empty": lambda _: b"",
    LATIN: lambda text: text,
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    folders(root / "data")
    model = save_model(root / "w.safetensors", "test_vit")
    assert transfer(Input("", folders, done="used"), root / "data", model) == 0
    folder = root / "results" / "records"
    (one,) = folder.glob("*.json")
    for name, change in ODD.items():
        (folder / f"{name}.json").write_bytes(change(one.read_bytes()))
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "nowhere.json").symlink_to("nothing")
    return folder


def test_the_report_names_each_and_shows_the_rest(records, capsys):
    assert main(["report", "--results", str(records.parent), "--include-dirty"]) == 0
    said = capsys.readouterr().out
    assert f"Left out ({len(ODD) + 3}):" in said


def test_verify_names_each(records, capsys):
    assert main(["records", "verify", "--results", str(records.parent)]) == 1
    said = capsys.readouterr().out
    for name in (*ODD, "folder", "pipe", "nowhere"):
        shown = "caf\\xe9" if name == LATIN else name
        assert f"{shown}.json: " in said, name
    assert "pipe.json: is a named pipe, not a file" in said
