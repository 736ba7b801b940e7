"""Side files are read as numpy reads them, and let go of when their column is done."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_synthetic import add_examples, make_record

from cskd_bench.record import SideFile
from cskd_bench.report import npz
from cskd_bench.report.examples import read_side_file
from cskd_bench.report.npz import read_arrays
from cskd_bench.report.scores import ExampleScores

NAMES = ("label", "predicted", "confidence")


def saved(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@given(
    save=st.sampled_from([np.savez, np.savez_compressed]),
    kind=st.sampled_from(["u2", "<i4", ">i4", "f2", "f8", "?"]),
    size=st.integers(0, 300),
)
def test_arrays_are_those_of_numpy(save, kind, size):
    random = np.random.default_rng(size)
    arrays = {name: (random.random(size) * 200).astype(kind) for name in NAMES}
    for found, name in zip(read_arrays(saved(save, **arrays), NAMES), NAMES, strict=True):
        assert found.dtype == arrays[name].dtype and np.array_equal(found, arrays[name])


def test_small_files_of_the_suite_take_the_short_way(monkeypatch):
    content = saved(np.savez_compressed, **{name: np.arange(5, dtype=np.uint16) for name in NAMES})
    monkeypatch.setattr(npz.np, "load", None)
    assert [array.tolist() for array in read_arrays(content, NAMES)] == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_labels_that_all_records_share_are_unpacked_once(save):
    first, second, other = (
        read_arrays(saved(save, label=np.full(50, label), predicted=np.arange(50), confidence=np.zeros(50)), NAMES)
        for label in (1, 1, 2)
    )
    assert first[0] is second[0] and first[1] is not second[1]
    assert other[0].tolist() == [2] * 50 and not first[0].flags.writeable


def test_what_is_unusual_is_left_to_numpy():
    arrays = {"label": np.zeros((2, 3)), "predicted": np.array(3), "confidence": np.array(["a", "b"])}
    found = read_arrays(saved(np.savez, **arrays), NAMES)
    assert [array.shape for array in found] == [(2, 3), (), (2,)]
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(saved(np.savez, **{name: np.array([{}], dtype=object) for name in NAMES}), NAMES)


def test_a_damaged_file_raises_as_with_numpy():
    content = bytearray(saved(np.savez_compressed, **{name: np.arange(500) for name in NAMES}))
    with pytest.raises(KeyError):
        read_arrays(bytes(content), ("label", "no such array"))
    with pytest.raises(zipfile.BadZipFile):
        read_arrays(bytes(content[:-30]), NAMES)
    for save in (np.savez, np.savez_compressed):
        content = bytearray(saved(save, **{name: np.arange(500) for name in NAMES}))
        content[400] ^= 0xFF
        with pytest.raises((zipfile.BadZipFile, npz.zlib.error)):
            read_arrays(bytes(content), NAMES)


def test_side_files_are_read_once_and_what_is_broken_is_told_once(tmp_path):
    label = np.zeros(4, dtype=np.int32)
    whole = make_record(seed=0, value=1.0, examples=4, per_example=add_examples(tmp_path, "a.npz", label, label))
    broken = make_record(seed=1, value=1.0, examples=4, per_example=add_examples(tmp_path, "b.npz", label, label))
    (tmp_path / "b.npz").write_bytes(b"")
    examples = ExampleScores(tmp_path)
    first = examples.of(whole)
    assert first is not None and examples.of(whole) is first and examples.of(broken) is None
    (left_out,) = examples.broken.values()
    assert left_out.name == f"{broken.id}.json" and "has changed" in left_out.reason
    (tmp_path / "b.npz").unlink()
    assert examples.of(broken) is None and [*examples.broken.values()] == [left_out], "not looked for again"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "..", "folder/../../secret"])
def test_a_side_file_outside_the_folder_is_not_read(tmp_path, name):
    folder = tmp_path / "records"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="lies outside"):
        read_side_file(folder, SideFile(name=name, sha256=hashlib.sha256(b"x").hexdigest()))
