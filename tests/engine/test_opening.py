"""Of several ranks one searches the folders of a data set; the others read its index, or are sent it."""

import pytest
from helpers.processes import TWO_RANKS, end, start

PROGRAM = """
import os, sys
from pathlib import Path
from cskd_bench.cells.pretraining_splits import open_splits
from cskd_bench.config import DataConfig
from cskd_bench.data import index
from cskd_bench.engine.distributed import joined_ranks
index.FEWEST, index.SETTLED = 1, -60.0
searched, scan = [], os.scandir
os.scandir = lambda folder: searched.append(str(folder)) or scan(folder)
with joined_ranks() as ranks:
    splits = open_splits(DataConfig(root=sys.argv[1], num_classes=3), ranks)
    found = ranks.gather([split.identity for split in splits])
    assert found[0] == found[1] and len(splits[0]) == 48
    below = ranks.gather([path for path in searched if path.startswith(sys.argv[1])])
    homeless = ranks.gather(len(index.homeless_indexes()))
    if ranks.is_main:
        print("searched", len(below[0]), len(below[1]), "homeless", *homeless)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "open.py").write_text(PROGRAM)
    return tmp_path / "open.py"


@pytest.fixture
def data(colour_squares, tmp_path):
    """The squares under another name, where a test may put what it likes."""
    for split in ("train", "val"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(colour_squares / split)
    yield tmp_path / "data"
    for path in colour_squares.glob(".cskd-bench-*"):
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_second_rank_reads_the_index_of_the_first(program, data, tmp_path):
    said = end(start([*TWO_RANKS, program, data], XDG_CACHE_HOME=str(tmp_path / "cache")))
    assert "searched 8 0 homeless 0 0" in said
    assert "searched 0 0 homeless 0 0" in end(start([*TWO_RANKS, program, data]))


def test_the_second_rank_is_sent_what_no_folder_takes(program, data, colour_squares, tmp_path):
    (tmp_path / "cache").write_bytes(b"no folder")
    for split in ("train", "val"):
        (colour_squares / f".cskd-bench-{split}.index").mkdir()
    said = end(start([*TWO_RANKS, program, data], XDG_CACHE_HOME=str(tmp_path / "cache")))
    assert "searched 8 0 homeless 2 2" in said


def test_both_ranks_end_where_the_first_finds_no_data(program, tmp_path):
    said = end(start([*TWO_RANKS, program, tmp_path]), code=1)
    assert "rank 0" in said and "no such folder" in said
