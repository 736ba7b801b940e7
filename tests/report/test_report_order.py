"""Rows and columns stand in one order, whatever order their records come in."""

from itertools import permutations

import pytest

from cskd_bench.report.selection import Method, Setting, method_order, setting_order

ROW = Method("cskd", "cskd", "a_cnn at 64 px")
COLUMN = Setting("classification", "digits", 1, "f" * 16, "top1", "linear", "a" * 16, 32, "raw")


def change(item, **changes):
    return type(item)(**{name: getattr(item, name) for name in item.__slots__} | changes)


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, change(ROW, teacher="a_cnn at 064 px"), change(ROW, teacher="a_cnn at 0064 px")],
        [change(ROW, kind=kind, label="ours") for kind in ("first", "second", "third")],
    ],
)
def test_rows_that_look_alike_still_have_one_order(rows):
    expected = sorted(rows, key=method_order)
    assert all(sorted(given, key=method_order) == expected for given in permutations(rows))


@pytest.mark.parametrize(
    "changes",
    [
        [{"fingerprint": digit * 16} for digit in "123"],
        [{"metric": metric} for metric in ("top1", "box_ap", "mask_ap")],
        [{"task": task} for task in ("digits1", "digits01", "digits001")],
    ],
)
def test_columns_that_differ_in_content_or_metric_alone_have_one_order(changes):
    columns = [change(COLUMN, **changed) for changed in changes]
    expected = sorted(columns, key=setting_order)
    assert all(sorted(given, key=setting_order) == expected for given in permutations(columns))
