"""Images kept in memory give the same views, are decoded once, and never take more than there is room for."""

import numpy as np
import pytest
import torch
from PIL import Image

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data import kept_images
from cskd_bench.data.engines import worker_views
from cskd_bench.data.kept_images import keep_images
from cskd_bench.data.loader import train_loader
from cskd_bench.data.open import open_source
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import Interrupted, UserError

PLAN = ViewPlan(images=12, batch_size=12, repeats=2, epochs=3, seed=5)


@pytest.fixture
def photographs(tmp_path):
    """Images of several sizes and formats: a JPEG, one that is turned, a PNG, a grey one."""
    draw = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (40 + number, 64, 3) if number % 4 else (50, 41)
        picture = Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8))
        exif = Image.Exif()
        exif[274] = 6 if number == 5 else 1
        ending = "png" if number % 3 == 0 else "jpg"
        picture.save(folder / f"{number:02d}.{ending}", exif=exif)
    return DataConfig(root=str(tmp_path), num_classes=2)


def views_of(data, engine):
    augment = AugmentConfig(engine=engine, mix_group=4, repeats=2)
    return worker_views(open_source(data, "train"), augment, 24, 5, data)


def batches(views, workers=0):
    return list(train_loader(views, PLAN, first_step=0, rank=0, world=1, accumulate=1, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ["pil", "tensor"])
def test_the_views_are_the_same_bits_and_nothing_is_decoded_again(photographs, engine, workers, monkeypatch):
    expected = batches(views_of(photographs, engine))
    views = views_of(photographs, engine)
    assert keep_images(views, 1, 2).startswith("12 of 12 decoded images are kept in memory")
    monkeypatch.setattr(views._source, "content", lambda index: pytest.fail("read again"))
    for ours, theirs in zip(batches(views, workers), expected, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.labels, theirs.labels)


def test_where_there_is_no_room_nothing_is_kept_and_a_sentence_says_so(photographs, monkeypatch):
    expected = batches(views_of(photographs, "pil"))
    monkeypatch.setattr(kept_images, "available_memory", lambda: 100_000)
    views = views_of(photographs, "pil")
    assert "there is room for 0.0 GB; they are decoded again" in keep_images(views, 1, 1)
    assert views._kept == {}
    assert torch.equal(batches(views)[1].pixels, expected[1].pixels)


def test_ranks_of_a_machine_share_the_room(photographs, monkeypatch):
    monkeypatch.setattr(kept_images, "available_memory", lambda: 200_000)
    assert "are kept" in keep_images(views_of(photographs, "pil"), 1, 1)
    assert "decoded again" in keep_images(views_of(photographs, "pil"), 2, 1)


def test_a_damaged_image_ends_the_run_at_its_start_or_is_left_to_be_skipped(photographs, tmp_path):
    (tmp_path / "train/a/02.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a/02\.jpg: not a readable image"):
        keep_images(views_of(photographs, "pil"), 1, 1)
    skipping = photographs.model_copy(update={"on_corrupt": "skip"})
    views = views_of(skipping, "pil")
    assert keep_images(views, 1, 1).startswith("11 of 12")
    skipped = [sentence for batch in batches(views) for sentence in batch.skipped]
    assert skipped and all("02.jpg" in sentence for sentence in skipped)


def test_a_stop_is_heard_while_images_are_read(photographs):
    with pytest.raises(Interrupted, match="nothing was trained yet"):
        keep_images(views_of(photographs, "pil"), 1, 1, lambda: True)
