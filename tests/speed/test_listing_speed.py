"""The measurement of how long a large data set takes to open."""

import threading

import pytest

from cskd_bench.data import index
from cskd_bench.errors import UserError
from cskd_bench.speed.listing import measure_listing
from cskd_bench.speed.measure import measure_kept


def test_an_index_is_measured_beside_a_search(monkeypatch):
    monkeypatch.setattr(index, "SETTLED", 0.1)
    monkeypatch.setattr(index, "FEWEST", 2000)
    found = measure_listing(2, "cpu", files=2500)
    for what in ("files", "samples"):
        seconds = found[f"seconds_per_million_{what}"]
        assert 0 < seconds["index"] < seconds["first"]
    assert 40 < found["megabytes_per_million_files"] < 1000  # most of it is the 1,000 folders' at this size


def test_a_measurement_without_an_index_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"ask for 10,000 files or more"):
        measure_listing(1, "cpu", files=9999)
    monkeypatch.setenv("CSKD_BENCH_INDEX", "off")
    with pytest.raises(UserError, match="unset CSKD_BENCH_INDEX"):
        measure_listing(1, "cpu")


def test_what_another_thread_allocates_is_not_counted():
    others = []

    def make():
        thread = threading.Thread(target=lambda: others.append(bytearray(20_000_000)))
        thread.start()
        thread.join()
        return bytearray(1_000_000)

    assert 990_000 < measure_kept(make) < 1_010_000 and len(others[0]) == 20_000_000
