"""What a report is made of: records, side files, registered plans, failed cells. Nothing of them may act in a page."""

import csv
import hashlib
import io
import json
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.choices import Choices
from fuzz.data_targets import npy_array
from fuzz.documents import as_json, change
from fuzz.scratch import scratch
from report.report_synthetic import make_record

from cskd_bench.record import read_record
from cskd_bench.report.build import build_report
from cskd_bench.report.manifest import read_manifest
from cskd_bench.report.plans import read_plan
from cskd_bench.report.verify import verify_records


@cache
def record_tables() -> list[dict[str, Any]]:
    """Return records of two methods and two seeds, of pretraining and of a task."""
    return [
        make_record(label=label, seed=seed, pretrain_seed=seed, protocol=protocol, value=0.5 + 0.1 * seed).model_dump(
            mode="json"
        )
        for label in ("supervised", "cskd")
        for seed in (0, 1)
        for protocol in ("pretrain", "linear")
    ]


@cache
def old_record() -> dict[str, Any]:
    """Return a record as the first release wrote it."""
    table = json.loads(json.dumps(record_tables()[1])) | {
        "schema_version": 1,
        "note": "labelling took 12 s from a bank",
    }
    for key in ("argv", "labels_from", "hardware", "started", "resumptions"):
        del table[key]
    del table["cost"]["labelling_seconds"]
    return table


def fuzz_record(data: bytes) -> None:
    """Read one record: bytes as they are, or a changed one, of today or of the first release."""
    choices = Choices(data)
    with scratch() as folder:
        file = Path(folder, "a.json")
        table = choices.pick((record_tables()[1], record_tables()[0], old_record()))
        file.write_bytes(choices.rest() if choices.below(2) else as_json(change(table, choices)))
        read_record(file)


ARMS = [
    {"model": "vit_tiny", "pretrain_data": "mnist_5k", "pretrain_recipe": "b" * 16, "label": label, "teacher": teacher}
    for label, teacher in (("cskd", "tf_efficientnet_lite0"), ("supervised", ""))
]
REGISTERED = {
    **{"plan": "plan", "registered": "2026-01-01T00:00:00+00:00", "commit": "0" * 40, "note": "", "seeds": [0, 1]},
    "contrasts": [
        {"name": "cskd − supervised", "where": "digits", "first": ARMS[0], "second": ARMS[1], "minus": None}
        | {"task": "digits", "protocol": protocol, "fingerprint": "", "band": 0.01, "family": family}
        for protocol, family in (("pretrain", "primary"), ("linear", "exploratory"))
    ],
    "students": [["vit_tiny", "mnist_5k", "b" * 16]],
}


def fuzz_registered(data: bytes) -> None:
    """Read a registered plan: bytes as they are, or a changed one."""
    choices = Choices(data)
    with scratch() as folder:
        file = Path(folder, "plan.json")
        file.write_bytes(choices.rest() if choices.below(2) else as_json(change(REGISTERED, choices)))
        read_plan(file)


def fuzz_report(data: bytes) -> None:
    """Verify and report a results folder in which one thing was changed; its words must not act in what is written."""
    choices = Choices(data)
    with scratch() as folder:
        root = Path(folder)
        _write_results(root, choices)
        verify_records(root / "records")
        formats = choices.pick((("md", "csv", "latex"), ("html",), ("json", "forest"), ("svg",)))
        report = build_report(root, root / "out", formats=formats, include_dirty=bool(choices.below(2)))
        for name, file in report.files.items():
            assert_harmless(name, file.read_text(encoding="utf-8"))


def _write_results(root: Path, choices: Choices) -> None:
    (root / "records").mkdir()
    (root / "plans").mkdir()
    tables, changed = record_tables(), choices.below(len(record_tables()) + 3)
    swap = [(json.dumps(tables[changed][key]), choices.text()) for key in ("recipe",)] if changed < len(tables) else []
    for number, table in enumerate(tables):
        side = _side_file(choices if number == changed else Choices(b""))
        name = f"{table['id']}.examples.npz"
        (root / "records" / name).write_bytes(side)
        table = table | {"per_example": {"name": name, "sha256": hashlib.sha256(side).hexdigest()}}
        if number == changed:
            table = change(table, choices)
        elif swap and choices.below(8) == 7:  # the same change in several
            table = json.loads(json.dumps(table).replace(swap[0][0], json.dumps(swap[0][1])))
        named = table.get("id") if isinstance(table, dict) else None
        whole = isinstance(named, str) and named.isprintable() and "/" not in named and 0 < len(named) < 99
        file = root / "records" / f"{named if whole else 'a'}.json"
        file.write_bytes(as_json(table))
    if choices.below(2):
        plan = change(REGISTERED, choices) if changed == len(tables) else REGISTERED
        (root / "plans" / "plan.json").write_bytes(as_json(plan))
    cells = [{"cell": "a", "error": "b"}]
    if changed > len(tables):
        (root / "failures.json").write_bytes(as_json(change(cells, choices)))
        (root / "records" / "MANIFEST").write_bytes(choices.bytes(choices.below(99)))


def _side_file(choices: Choices) -> bytes:
    file, label = io.BytesIO(), np.arange(500, dtype=np.uint16) % 10
    arrays = {"label": label, "predicted": np.where(np.arange(500) < 450, label, (label + 1) % 10)}
    arrays["confidence"] = np.full(500, 0.5, np.float16)
    for name in tuple(arrays):
        if choices.below(8) == 7:
            arrays[name] = npy_array(choices)
    np.savez(file, **arrays)
    return file.getvalue()


class _Tags(HTMLParser):
    """Collects what stands in a page as tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(name for name, _ in attributes)]


def assert_harmless(kind: str, text: str) -> None:
    """Hold that no word of a record acts: as a tag, a command of LaTeX, or a formula of a spreadsheet."""
    if kind in ("html", "svg", "forest"):
        tags = _Tags()
        tags.feed(text)
        assert "xfz" not in tags.found and "onload" not in tags.found, "a record's words are tags of the page"
    if kind == "md":
        assert "<xfz" not in text.replace("\\<xfz", ""), "a record's words are tags of the Markdown"
    if kind == "latex":
        assert "\\input{xfz}" not in text, "a record's words are commands of LaTeX"
    if kind == "csv":
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        acting = [cell for cell in cells if cell[:1] in ("=", "+", "@") or (cell[:1] == "-" and not _is_number(cell))]
        assert not acting, f"cells of a spreadsheet that act: {acting[:1]}"
    if kind == "json":
        json.loads(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def fuzz_manifest(data: bytes) -> None:
    """Read the list of a records folder's files."""
    with scratch() as folder:
        Path(folder, "MANIFEST").write_bytes(data)
        read_manifest(Path(folder))
