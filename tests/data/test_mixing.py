"""Mixing and erasing against a slow, obvious reference; pairs do not depend on how a batch is split."""

import pytest
import torch

from cskd_bench.config import AugmentConfig
from cskd_bench.data.mixing import ViewKey, _draw, erase, mix, resize_view, to_float


def keys(count, epoch=0, start=0):
    return [ViewKey(epoch, start + n, (start + n) * 7 % 101, 0) for n in range(count)]


def batch(count, size=12):
    torch.manual_seed(0)
    return torch.rand(count, 3, size, size), torch.arange(count) % 5


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}])
def test_mixing_agrees_with_doing_it_pair_by_pair(settings):
    augment = AugmentConfig(mix_group=4, repeats=2, smoothing=0.1, **settings)
    views, labels = batch(16)
    mixed, soft = mix(views.clone(), labels, keys(16), augment, 5, seed=1)
    kinds = set()
    for start in range(0, 16, 4):
        kind, lam = _draw(augment, 1, keys(16)[start])
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
    whole, soft = mix(views.clone(), labels, keys(16), augment, 5, seed=3)
    for start in range(0, 16, 8):
        rows = slice(start, start + 8)
        part, part_soft = mix(views[rows].clone(), labels[rows], keys(16)[rows], augment, 5, seed=3)
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
    same, soft = mix(views.clone(), labels, keys(3), AugmentConfig(mixup=0.0, cutmix=0.0, smoothing=0.2), 5, seed=0)
    assert torch.equal(same, views)
    assert soft[1].tolist() == pytest.approx([0.04, 0.84, 0.04, 0.04, 0.04])


def test_erasing_touches_one_box_of_about_a_quarter_of_the_views_and_depends_on_the_key_alone():
    augment = AugmentConfig(erasing=0.25)
    views = torch.full((400, 3, 16, 16), 0.5)
    erased = erase(views.clone(), keys(400), augment, seed=0)
    touched = (erased != 0.5).flatten(1).any(1)
    assert 70 < touched.sum() < 130
    for row in torch.nonzero(touched).flatten()[:20].tolist():
        mask = (erased[row] != 0.5).any(0)
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.95
        assert 0.01 < box.numel() / 256 < 0.4
    alone = erase(views[:1].clone(), keys(400)[:1], augment, seed=0)
    assert torch.equal(alone[0], erased[0])


def test_views_shrink_to_each_models_resolution():
    views = to_float(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    assert resize_view(views, 8) is views
    torch.testing.assert_close(resize_view(views, 4)[:, :, 0, 0], views[:, :, :2, :2].mean((2, 3)))
    assert resize_view(views, 5).shape == (2, 3, 5, 5)
