"""Packed views give back the envelope's labels, one by one or many together, and the soft targets."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cskd_bench.bank.envelope import Envelope, Ladder, declared_ratios, upper_envelope
from cskd_bench.bank.pack import PackedViews, pack, soft_targets

GRID = (2, 3)


@st.composite
def envelopes(draw):
    """Any labels that the format can hold: classes up to 65,535, codes falling at each place."""
    views = draw(st.integers(1, 4))
    labels = draw(st.sampled_from([2, 3, 300, 2**16]))
    rows, classes, codes = [], [], []
    for row in range(views * 6):
        chosen = sorted(draw(st.sets(st.integers(1, 2**16 - 1), max_size=4)), reverse=True)
        rows += [row] * len(chosen)
        codes += chosen
        classes += draw(st.lists(st.integers(0, labels - 1), min_size=len(chosen), max_size=len(chosen)))
    bottom = draw(st.lists(st.integers(0, labels - 1), min_size=views, max_size=views))
    arrays = (np.array(part, dtype=np.int64) for part in (bottom, rows, classes))
    return Envelope(*arrays, np.array(codes, dtype=np.uint16), GRID)


def packed_views(packed: list[bytes], order: list[int], soft: int = 0) -> PackedViews:
    starts = np.cumsum([0, *map(len, packed)])[:-1]
    return PackedViews(np.frombuffer(b"".join(packed), dtype=np.uint8), starts[order], GRID, soft)


@given(envelopes(), st.data())
@settings(max_examples=200, deadline=None)
def test_round_trip(envelope, data):
    packed = pack(envelope)
    order = data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=6))
    views = packed_views(packed, order)
    np.testing.assert_array_equal(views.global_labels(), envelope.global_labels[order])
    edges = {0, 2**16 - 1, *(int(code) + step for code in envelope.codes for step in (-1, 0))}
    for code in sorted(edges):
        np.testing.assert_array_equal(views.labels(code), slow_labels(envelope, code)[order])


def slow_labels(envelope: Envelope, code: int) -> np.ndarray:
    """Walk every place from r = 1 down and stop at the first entry that holds."""
    labels = np.repeat(envelope.global_labels, GRID[0] * GRID[1])
    found = set()
    for row, label, start in zip(envelope.rows, envelope.classes, envelope.codes, strict=True):
        if row not in found and start <= code:
            labels[row] = label
            found.add(row)
    return labels.reshape(-1, *GRID)


@given(k=st.integers(1, 8), temperature=st.sampled_from([1.0, 3.0]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_soft_targets_keep_the_top_and_the_mass_of_the_rest(k, temperature, seed):
    torch.manual_seed(seed)
    logits = 4 * torch.randn(3, 8)
    envelope = upper_envelope(torch.randn(3, 8, *GRID), logits, Ladder(declared_ratios(3)))
    soft = soft_targets(logits, k, temperature)
    back = packed_views(pack(envelope, soft), [2, 0, 1], k).soft_targets()
    np.testing.assert_array_equal(back.classes, soft.classes[[2, 0, 1]])
    expected = (logits[[2, 0, 1]] / temperature).softmax(1)
    given_ = (back.expand(8) / temperature).softmax(1)
    top = torch.from_numpy(back.classes)
    torch.testing.assert_close(given_.gather(1, top), expected.gather(1, top), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(given_.sum(1), torch.ones(3))


def test_labels_and_soft_targets_share_a_view():
    torch.manual_seed(0)
    dense = torch.randn(5, 40, *GRID)
    envelope = upper_envelope(dense, dense.flatten(2).mean(2), Ladder(declared_ratios(3)))
    views = packed_views(pack(envelope, soft_targets(dense.flatten(2).mean(2), 4, 3.0)), [0, 1, 2, 3, 4], 4)
    for code in (0, 20000, 60000):
        np.testing.assert_array_equal(views.labels(code), envelope.labels(code))


def test_all_classes_kept_means_no_rest():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    soft = soft_targets(logits, 3, 1.0)
    assert soft.expand(3)[0].tolist() == [-2.0, 0.0, -1.0]
