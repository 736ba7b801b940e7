"""Costs stand beside each other only where they are of like runs on equal hardware."""

import io

import pytest
from report_synthetic import HARDWARE, make_record
from rich.console import Console

from cskd_bench.record import Hardware, write_record
from cskd_bench.report import words
from cskd_bench.report.compare import compare
from cskd_bench.report.markdown import markdown
from cskd_bench.report.rows import standing_head, standing_rows
from cskd_bench.report.selection import select
from cskd_bench.report.terminal import show

GPU = {"gpu_hours": 0.5, "hardware": HARDWARE.model_copy(update={"gpus": ("a GPU",)})}


def table_of(tmp_path, *records):
    """The one table of a few records, whose seconds are 100 unless they say more."""
    for record in records:
        write_record(tmp_path, make_record(**{"seconds": 100.0, "protocol": "finetune", "value": 0.5, **record}))
    (table,) = compare(tmp_path, select(tmp_path)).tables
    return table


def shown(table):
    """What a row's cost says, by the row's label."""
    return {method.label: words.cost(cost) for method, cost in table.costs.items()}


def on(**changes):
    return HARDWARE.model_copy(update=changes)


def test_costs_of_equal_hardware_are_shown_without_a_word(tmp_path):
    table = table_of(tmp_path, {"label": "deit", **GPU}, {"label": "cskd", **GPU, "seconds": 200.0})
    whole = {"images/s": "431", "GPU-hours": "0.50", "memory": "1.0 GiB"}
    assert shown(table) == {"deit": {"time": "100 s", **whole}, "cskd": {"time": "3 min", **whole}}
    assert table.cost_note == ""


def test_the_host_and_what_decides_rounding_alone_do_not_matter(tmp_path):
    table = table_of(tmp_path, {"label": "deit"}, {"label": "cskd", "hardware": on(host="1" * 8, blas="another")})
    assert shown(table)["cskd"]["time"] == "100 s"


@pytest.mark.parametrize(
    "other",
    [on(cpu="another"), on(threads=4), on(gpus=("a GPU",)), on(world=2)],
    ids=["cpu", "threads", "gpu", "world"],
)
def test_costs_of_different_hardware_are_left_out_with_the_reason(tmp_path, other):
    table = table_of(tmp_path, {"label": "deit"}, {"label": "cskd"}, {"label": "cskd", "seed": 1, "hardware": other})
    assert all(text == "" for cost in shown(table).values() for text in cost.values())
    assert table.cost_note == "Costs are not shown: the runs were made on different hardware."


def test_runs_that_count_their_evaluations_stand_beside_no_others(tmp_path):
    """A linear probe has no evaluations to count, whoever made it."""
    probes = [{"label": label, "protocol": "linear"} for label in ("deit", "cskd")]
    (tmp_path / "new").mkdir()
    new = {"evaluation_seconds": 9.0}
    table = table_of(tmp_path / "new", {"label": "deit", **new}, {"label": "cskd", **new}, *probes)
    assert shown(table)["cskd"]["time"] == "100 s" and table.cost_note == ""
    table = table_of(tmp_path, {"label": "deit"}, {"label": "cskd", **new}, *probes)
    assert table.cost_note == "Costs are not shown: some of the runs count their evaluations and some do not."


def test_hardware_that_is_not_known_equals_nothing_but_a_row_alone_may_show_its_own(tmp_path):
    unknown = {"hardware": Hardware(threads=2)}
    (tmp_path / "one").mkdir()
    alone = table_of(tmp_path / "one", {"label": "cskd", **unknown}, {"label": "cskd", "seed": 1, **unknown})
    assert shown(alone)["cskd"]["time"] == "100 s" and alone.cost_note == ""
    all_unknown = table_of(tmp_path, {"label": "cskd", **unknown}, {"label": "deit", **unknown})
    assert set(shown(all_unknown)["cskd"].values()) == {""}
    assert all_unknown.cost_note == "Costs are not shown: the records do not say on what hardware they were made."
    some = table_of(tmp_path, {"label": "kd"})
    assert some.cost_note.endswith(": 2 of the 3 records do not say on what hardware they were made.")


@pytest.mark.parametrize(
    ("column", "without"),
    [("images/s", {"images_per_second": 0.0}), ("peak memory", {"peak_memory_bytes": 0}), ("time", {"seconds": 0.0})],
)
def test_a_column_that_one_record_leaves_out_is_empty_for_all_rows(tmp_path, column, without):
    table = table_of(tmp_path, {"label": "deit"}, {"label": "cskd"}, {"label": "cskd", "seed": 1, **without})
    name = "memory" if column == "peak memory" else column
    assert [cost[name] for cost in shown(table).values()] == ["", ""]
    assert all(cost[other] for cost in shown(table).values() for other in {"images/s", "memory", "time"} - {name})
    assert table.cost_note == f"Not every run recorded it, so it is not shown: {column}."


def test_times_are_left_out_where_a_banks_labels_were_not_counted(tmp_path):
    bank = {"labels_from": "bank", "protocol": "pretrain"}
    table = table_of(tmp_path, {"label": "deit", **bank, "labelling_seconds": 60.0}, {"label": "cskd", **bank})
    assert [cost["time"] for cost in shown(table).values()] == ["", ""] and "time" in table.cost_note
    assert shown(table)["deit"]["images/s"] == "431"


def test_times_hold_the_labels_where_every_bank_says_what_they_took(tmp_path):
    bank = {"labels_from": "bank", "protocol": "pretrain", "labelling_seconds": 60.0}
    table = table_of(tmp_path, {"label": "supervised", "protocol": "pretrain"}, {"label": "cskd", **bank})
    assert shown(table)["cskd"]["time"] == "100 s + 60 s labels" and shown(table)["supervised"]["time"] == "100 s"


def test_only_columns_that_every_row_has_are_counted_each_once(tmp_path):
    """One row has another protocol, which is slow, and more seeds of one column than the other row."""
    records = [
        {"label": "deit", "protocol": "finetune", "seconds": 100.0},
        {"label": "deit", "protocol": "linear", "seconds": 20.0},
        {"label": "cskd", "protocol": "finetune", "seconds": 100.0},
        {"label": "cskd", "protocol": "finetune", "seconds": 100.0, "seed": 1},
        {"label": "cskd", "protocol": "linear", "seconds": 20.0},
        {"label": "cskd", "protocol": "lowlabel", "seconds": 7000.0},
    ]
    table = table_of(tmp_path, *records)
    assert {cost["time"] for cost in shown(table).values()} == {"60 s"}


def test_rows_without_a_common_column_are_not_compared(tmp_path):
    table = table_of(tmp_path, {"label": "deit", "protocol": "linear"}, {"label": "cskd", "protocol": "knn"})
    assert table.cost_note == "Costs are not shown: no column has all of its methods."


def test_the_sentence_stands_below_the_table_and_no_cost_has_a_column(tmp_path):
    table_of(tmp_path, {"label": "deit"}, {"label": "cskd", "hardware": on(cpu="another")})
    comparison = compare(tmp_path, select(tmp_path))
    said = io.StringIO()
    show(comparison, [], Console(file=said, width=200))
    for text in (markdown(comparison, [], []), said.getvalue()):
        assert text.count("Costs are not shown: the runs were made on different hardware.") == 1
    (table,) = comparison.tables
    assert standing_head(table) == ["↑/○/↓ against deit"]
    assert all(len(row) == 1 for _, row in standing_rows(table))
    assert "GiB" not in said.getvalue()
