"""Mixing and erasing against a slow, obvious reference, box by box and at once; splits of a batch change no pair."""

import numpy as np
import pytest
import torch
from helpers import views_before

from cskd_bench.config import AugmentConfig
from cskd_bench.data import erasing, mixing
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.mixing import resize_view, to_float


def keys(count, epoch=0, start=0):
    return [ViewKey(epoch, start + n, (start + n) * 7 % 101, 0) for n in range(count)]


def batch(count, size=12):
    torch.manual_seed(0)
    return torch.rand(count, 3, size, size), torch.arange(count) % 5


def mix(views, labels, chosen, augment, num_classes, seed):
    drawn = mixing.draw_mixing(chosen, augment, views.shape[-1], seed)
    targets = mixing.smooth_labels(labels, num_classes, augment.smoothing)
    return (views, targets) if drawn is None else mixing.mix(views, targets, drawn)


def erase(views, chosen, augment, seed):
    return erasing.erase(views, erasing.draw_erasing(chosen, augment, views.shape[-1], seed))


@pytest.mark.parametrize("size", [12, 33, 530])
def test_boxes_are_erased_as_one_by_one_on_a_cpu_and_at_once(size):
    augment = AugmentConfig(erasing=0.5)
    views, _ = batch(24, size)
    expected = views_before.erase(views.clone(), keys(24), augment, 3)
    drawn = erasing.draw_erasing(keys(24), augment, size, 3)
    table = erasing._noise_table(size, torch.device("cpu"))
    windows = np.stack(erasing._windows(drawn.rows[:, 5], table.shape[-1] - size + 1))
    assert not torch.equal(expected, views)
    assert torch.equal(erasing.erase(views.clone(), drawn), expected)
    assert torch.equal(erasing.erase_at_once(views.clone(), drawn, table, windows), expected)


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}, {"mix_probability": 0.5}])
def test_groups_are_mixed_as_one_by_one_on_a_cpu_and_at_once(settings, monkeypatch):
    augment = AugmentConfig(mix_group=4, repeats=2, **settings)
    views, labels = batch(64)
    expected = views_before.mix(views.clone(), labels, keys(64), augment, 5, 3)
    for at_once in (False, True):
        if at_once:
            monkeypatch.setattr(mixing, "_copy_boxes", lambda views, partners, drawn: None)
        mixed = mix(views.clone(), labels, keys(64), augment, 5, 3)
        if at_once:
            partner = torch.arange(64).view(-1, 4).roll(2, dims=1).flatten()
            drawn = mixing.draw_mixing(keys(64), augment, 12, 3)
            mixing.cut_at_once(mixed[0], views[partner], drawn)
        assert torch.equal(mixed[0], expected[0]) and torch.equal(mixed[1], expected[1])


def test_what_is_no_whole_number_of_groups_is_not_mixed():
    assert mixing.draw_mixing(keys(6), AugmentConfig(mix_group=4, repeats=2), 12, 0) is None


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}])
def test_mixing_agrees_with_doing_it_pair_by_pair(settings):
    augment = AugmentConfig(mix_group=4, repeats=2, smoothing=0.1, **settings)
    views, labels = batch(16)
    mixed, soft = mix(views.clone(), labels, keys(16), augment, 5, 1)
    kinds = set()
    for start in range(0, 16, 4):
        kind, lam = mixing._draw(augment, 1, keys(16)[start])
        kinds.add(kind)
        for member in range(4):
            one, other = start + member, start + (member + 2) % 4
            if kind == "mixup":
                expected = views[one] * lam + views[other] * (1 - lam)
                torch.testing.assert_close(mixed[one], expected)
            else:
                from_other = (mixed[one] == views[other]).all(0)
                assert ((mixed[one] == views[one]).all(0) | from_other).all()
                lam = 1 - from_other.float().mean().item()
            wanted = torch.full((5,), 0.1 / 5)
            wanted[labels[one]] += 0.9 * lam
            wanted[labels[other]] += 0.9 * (1 - lam)
            torch.testing.assert_close(soft[one], wanted, atol=1e-6, rtol=1e-5)
    assert kinds == {"mixup", "cutmix"} if not settings else len(kinds) == 1


def test_a_batch_in_parts_mixes_the_same_pairs():
    augment = AugmentConfig(mix_group=4, repeats=2)
    views, labels = batch(16)
    whole, soft = mix(views.clone(), labels, keys(16), augment, 5, 3)
    for start in range(0, 16, 8):
        rows = slice(start, start + 8)
        part, part_soft = mix(views[rows].clone(), labels[rows], keys(16)[rows], augment, 5, 3)
        assert torch.equal(part, whole[rows])
        assert torch.equal(part_soft, soft[rows])


def test_seeds_and_epochs_draw_anew():
    augment = AugmentConfig(mix_group=4, repeats=2)
    views, labels = batch(16)
    results = [
        mix(views.clone(), labels, keys(16, epoch), augment, 5, seed)[1] for seed, epoch in ((0, 0), (1, 0), (0, 1))
    ]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_no_mixing_only_smooths():
    views, labels = batch(3)
    same, soft = mix(views.clone(), labels, keys(3), AugmentConfig(mixup=0.0, cutmix=0.0, smoothing=0.2), 5, 0)
    assert torch.equal(same, views)
    assert soft[1].tolist() == pytest.approx([0.04, 0.84, 0.04, 0.04, 0.04])


def test_erasing_touches_one_box_of_about_a_quarter_of_the_views_and_depends_on_the_key_alone():
    augment = AugmentConfig(erasing=0.25)
    views = torch.full((400, 3, 16, 16), 0.5)
    erased = erase(views.clone(), keys(400), augment, 0)
    touched = (erased != 0.5).flatten(1).any(1)
    assert 70 < touched.sum() < 130
    for row in torch.nonzero(touched).flatten()[:20].tolist():
        mask = (erased[row] != 0.5).any(0)
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.95
        assert 0.01 < box.numel() / 256 < 0.4
    alone = erase(views[:1].clone(), keys(400)[:1], augment, 0)
    assert torch.equal(alone[0], erased[0])


def test_views_shrink_to_each_models_resolution():
    views = to_float(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    assert resize_view(views, 8) is views
    torch.testing.assert_close(resize_view(views, 4)[:, :, 0, 0], views[:, :, :2, :2].mean((2, 3)))
    assert resize_view(views, 5).shape == (2, 3, 5, 5)
