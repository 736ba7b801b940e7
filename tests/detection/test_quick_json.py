"""Annotation files read by msgspec: what it says is what `read_json` says, or `read_json` is asked."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cskd_bench.data.json_text import read_json
from cskd_bench.detection import annotations, quick_json
from cskd_bench.detection.annotations import read_annotations
from cskd_bench.detection.quick_json import read_quickly
from cskd_bench.errors import UserError

pytest.importorskip("msgspec", reason="the detection extra is not installed")

CONTENT = {
    "info": {"url": "http://a:80/b", "date:": "12:00"},
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "annotations": [
        {"id": 1, "bbox": [0, 0, 1.5, 2], "segmentation": {"size": [9, 9], "counts": "0:9"}, "tags": ["x:y"]}
    ],
    "categories": [{"id": 1, "name": "ü"}],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(':\\"ab\ud800', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(":ab", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def every_text_is_large(monkeypatch):
    monkeypatch.setattr(quick_json, "LARGE", 0)


def test_a_sound_file_is_read_by_msgspec_alone(tmp_path, monkeypatch):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(CONTENT, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setattr(annotations, "read_json", lambda text: pytest.fail("read twice"))
    assert read_annotations(file) == CONTENT


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": "x:y"}}',
        '{"a": [[{"b": 1}], {"c": 2, "c": 2}]}',
        '{"a": [1, {"b": 1, "b": 2}]}',
        '{"a": "\\u003a", "b": 1, "b": 2}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        '{"a": 1e999}',
        "[" * 2000 + "]" * 2000,
        '{"a": 1',
    ],
)
def test_what_msgspec_would_lose_or_refuse_is_left_to_read_json(text):
    assert read_quickly(text.encode()) is None


def test_a_key_given_twice_is_refused_in_a_large_file_too(tmp_path):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(CONTENT)[:-1] + ', "images": []}')
    with pytest.raises(UserError, match="the key 'images' is given twice"):
        read_annotations(file)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=JSON, ascii=st.booleans())
def test_any_text_says_the_same(content, ascii):
    text = json.dumps(content, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    found = read_quickly(text)
    assert found is None or json.dumps(found) == json.dumps(read_json(text))


def test_short_texts_are_left_to_read_json(monkeypatch):
    monkeypatch.setattr(quick_json, "LARGE", 100)
    assert read_quickly(b'{"a": 1}') is None
