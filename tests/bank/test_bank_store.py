"""A bank on disk: built in parts, resumed, verified, and refused where it does not match."""

import errno
import json
import re
import shutil
import time
from threading import Thread

import numpy as np
import pytest
import torch
from bank_runs import save_teacher, small_run
from helpers.views_before import erase, mix

from cskd_bench.bank import build
from cskd_bench.bank.build import build_bank
from cskd_bench.bank.claim import claim_shard
from cskd_bench.bank.match import bank_plan, open_matching_bank
from cskd_bench.bank.shard import Shard, write_shard
from cskd_bench.bank.store import (
    Bank,
    BankManifest,
    begin_bank,
    cost_path,
    describe_bank,
    shard_path,
    verify_bank,
)
from cskd_bench.bank.targets import BankTargets, bank_targets
from cskd_bench.config import CSKD, DataConfig, DeiT, PlainKD, Supervised
from cskd_bench.data.decode import DECODING
from cskd_bench.data.mixing import to_float
from cskd_bench.data.open import open_source
from cskd_bench.data.train_views import TrainViews
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.methods.parts import fuse, harden
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import teacher_identity
from cskd_bench.stopping import Stop


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def built(weights, tmp_path_factory):
    """A finished bank of two epochs in shards of 256 views, and its configuration."""
    config, out = small_run(weights), tmp_path_factory.mktemp("bank") / "labels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_SHARD_VIEWS", 256)
        done = build_bank(config, out)
    assert (done.views, done.shards, done.shards_before) == (2 * 896, 8, 0)
    return config, out


@pytest.fixture
def copy(built, tmp_path):
    config, out = built
    return config, shutil.copytree(out, tmp_path / "labels")


def test_labels_are_those_of_the_teacher_on_the_same_views(built):
    config, out = built
    bank, source = Bank(out), open_source(config.data, "train")
    keys = [key for step in range(60, 64) for key in bank_plan(config, len(source)).keys(step)]
    batch = TrainViews(source, config.recipe.augment, 32, config.seed, config.data).__getitems__(keys)
    views = erase(to_float(batch.pixels), keys, config.recipe.augment, config.seed)
    views, _ = mix(views, batch.labels, keys, config.recipe.augment, 10, config.seed)
    response = labelling_teacher(config.teacher, source.classes, 10, torch.device("cpu"), compiled=False)(views)
    shuffled = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).numpy()
    positions = np.array([key.position for key in keys])[shuffled]
    for ratio in (1.0, 0.731, 0.5, 0.0):
        fused, global_ = bank.labels(keys[0].epoch, positions, ratio)
        expected = harden(fuse(response.dense, response.global_logits, ratio), "hard").numpy()
        np.testing.assert_array_equal(fused, expected[shuffled])
        np.testing.assert_array_equal(global_, response.global_logits.argmax(1).numpy()[shuffled])
    assert len(np.unique(fused)) > 1


def test_parts_built_apart_are_the_bank_built_at_once(built, weights, tmp_path, monkeypatch):
    config, out = built
    monkeypatch.setattr(build, "_SHARD_VIEWS", 256)
    build_bank(config, tmp_path / "parts", range(1), shard=(2, 2))
    build_bank(config, tmp_path / "parts", range(1), shard=(1, 2))
    done = build_bank(config, tmp_path / "parts")
    assert (done.shards, done.shards_before) == (4, 4)
    for path in sorted(out.glob("epoch*/*.labels")):
        assert path.read_bytes() == (tmp_path / "parts" / path.relative_to(out)).read_bytes()


def test_builders_share_the_work_and_take_over_what_another_one_left(weights, tmp_path):
    out, config = tmp_path / "bank", small_run(weights)
    first, second = shard_path(out, 0, 0), shard_path(out, 1, 0)
    built = []
    with claim_shard(first, wait=False) as ours:  # as by another process, which is killed before it has written
        assert ours
        with claim_shard(first, wait=False) as again:
            assert not again
        builder = Thread(target=lambda: built.append(build_bank(config, out)))
        builder.start()
        while not second.exists():
            assert builder.is_alive()
            time.sleep(0.01)
        assert not first.exists() and builder.is_alive()
    builder.join()
    assert first.exists() and built[0].shards == 2
    assert not list(out.rglob("*.lock"))
    with claim_shard(first, wait=True) as ours:
        assert not ours


def test_a_stop_leaves_whole_shards_and_the_next_build_adds_the_rest(weights, tmp_path, monkeypatch):
    out, config, stop = tmp_path / "bank", small_run(weights), Stop()
    write = build.write_shard

    def write_and_stop(*words):
        write(*words)
        stop.requested = True

    monkeypatch.setattr(build, "write_shard", write_and_stop)
    with pytest.raises(Interrupted, match="whole shards are kept"):
        build_bank(config, out, stop=stop)
    assert len(list(out.rglob("*.labels"))) == 1 and not list(out.rglob("*.lock"))
    monkeypatch.setattr(build, "write_shard", write)
    done = build_bank(config, out)
    assert (done.shards_before, len(list(out.rglob("*.labels")))) == (1, 1 + done.shards)


def test_a_stop_is_heard_while_another_process_makes_the_last_shard(weights, tmp_path):
    out, config, stop = tmp_path / "bank", small_run(weights), Stop()
    build_bank(config, out)
    first = shard_path(out, 0, 0)
    first.unlink()
    stop.requested = True
    with claim_shard(first, wait=False), pytest.raises(Interrupted):
        build_bank(config, out, stop=stop)


def test_a_flipped_byte_is_found_anywhere_in_a_shard(copy):
    _, out = copy
    assert verify_bank(out) == []
    path = shard_path(out, 1, 2)
    good = path.read_bytes()
    for at in [*range(0, 100, 7), *range(100, len(good), 997), len(good) - 1]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        (problem,) = verify_bank(out)
        assert str(path) in problem
    path.write_bytes(good[:-3])
    assert "damaged" in verify_bank(out)[0]


def test_reading_a_damaged_block_stops_the_run(copy):
    _, out = copy
    path = shard_path(out, 0, 0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged; remove the file and run bank build again"):
        Bank(out).labels(0, np.array([5]), 0.5)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "part00000.labels", "0" * 16, 0, 0, [b"ab"])
    assert list(tmp_path.iterdir()) == []


def test_a_shard_of_another_bank_is_refused(tmp_path):
    write_shard(tmp_path / "part00000.labels", "0" * 16, 0, 0, [b"ab", b"cd"])
    with pytest.raises(UserError, match="belongs to another bank"):
        Shard(tmp_path / "part00000.labels", "1" * 16, (1, 1), 0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 3}, "views.seed: bank has 0, run has 3"),
        ({"recipe.augment.erasing": 0.5}, "views.augment.erasing: bank has 0.25, run has 0.5"),
        ({"recipe.augment.engine": "tensor"}, "views.augment.engine: bank has the default, run has 'tensor'"),
        ({"teacher.image_size": 16}, "teacher.image_size: bank has 32, run has 16"),
    ],
)
def test_a_bank_that_does_not_match_is_refused_with_the_difference(built, changed, told):
    config, out = built
    data = config.model_dump()
    for key, value in changed.items():
        *tables, last = key.split(".")
        node = data
        for table in tables:
            node = node[table]
        node[last] = value
    with pytest.raises(UserError, match=re.escape(told)):
        open_matching_bank(out, type(config).model_validate(data))
    with pytest.raises(UserError, match=re.escape(told)):
        build_bank(type(config).model_validate(data), out)


def test_other_weights_of_the_teacher_are_refused(built, tmp_path):
    config, out = built
    torch.manual_seed(8)
    other = config.teacher.model_copy(update={"weights": str(save_teacher(tmp_path))})
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=re.escape("teacher.weights: bank has")):
        open_matching_bank(out, config.model_copy(update={"teacher": other}))


def test_a_run_without_the_teachers_file_may_use_the_bank(built):
    config, out = built
    gone = config.teacher.model_copy(update={"weights": "not/here.safetensors"})
    assert open_matching_bank(out, config.model_copy(update={"teacher": gone})).missing(range(2)) == []


def test_one_bank_serves_every_hard_method_and_decay(built, weights):
    _, out = built
    for method in (DeiT(), CSKD(decay="cosine"), CSKD(decay="local")):
        open_matching_bank(out, small_run(weights, method=method))
    for method, reason in (
        (Supervised(), "asks nothing of a teacher"),
        (PlainKD(), "kd needs soft targets"),
        (CSKD(spatial_loss="soft"), "spatial_loss"),
    ):
        with pytest.raises(UserError, match=reason):
            open_matching_bank(out, small_run(weights, method=method))


def test_missing_epochs_are_named(built, weights):
    _, out = built
    with pytest.raises(UserError, match=r"declared for 2 epochs, the run has 3: build another bank"):
        open_matching_bank(out, small_run(weights, epochs=3))


def test_what_a_bank_lacks_is_named_with_the_configuration_that_makes_it(copy, monkeypatch):
    monkeypatch.setattr(build, "_SHARD_VIEWS", 256)
    config, out = copy
    shard_path(out, 1, 3).unlink()
    lacking = r"lacks 1 of the run's shards \(epoch0001/part00003.labels.*begun with, recipe.epochs = 2"
    with pytest.raises(UserError, match=lacking):
        open_matching_bank(out, config)
    build_bank(config, out, range(1, 2))
    open_matching_bank(out, config)


def test_a_bank_of_a_file_does_not_stand_in_for_timms_own_weights(built):
    config, out = built
    timms = config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": ""})})
    with pytest.raises(UserError, match=r"teacher_source: bank has 'file', run has 'timm'"):
        open_matching_bank(out, timms)


def test_a_run_without_the_teachers_file_or_in_another_precision_says_so(copy):
    config, out = copy
    gone = config.model_copy(update={"teacher": config.teacher.model_copy(update={"weights": "mistyped.safetensors"})})
    assert bank_targets(out, config).note == "teacher labels from a bank"
    assert "its name alone was compared" in bank_targets(out, gone).note
    manifest = json.loads((out / "manifest.json").read_text())
    shutil.rmtree(out)
    half = BankManifest.model_validate_json(json.dumps(manifest | {"precision": "fp16"}))
    begin_bank(out, half)
    with pytest.raises(UserError, match="precision: bank has 'fp16', run has 'fp32'"):
        bank_targets(out, config)
    in_half = config.model_copy(update={"teacher": config.teacher.model_copy(update={"precision": "fp16"})})
    assert BankTargets(Bank(out), in_half).teacher == teacher_identity(in_half.teacher)


def test_a_bank_of_images_decoded_otherwise_serves_as_before_and_says_so(copy, monkeypatch, capsys):
    config, out = copy
    monkeypatch.setattr(build, "_SHARD_VIEWS", 256)
    bank = open_matching_bank(out, config)
    assert bank.manifest.decoding == DECODING and capsys.readouterr().err == ""
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["decoding"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    older = open_matching_bank(out, config)
    told = f"{out}: its labels are of images that were not turned as their EXIF data say"
    assert capsys.readouterr().err.startswith(told)
    assert older.manifest.fingerprint() == bank.manifest.fingerprint() and verify_bank(out) == []
    build_bank(config, out)  # goes on with it
    assert capsys.readouterr().err.count(told) == 1


def test_costs_stand_beside_their_shards_and_a_damaged_one_counts_nothing(copy):
    _, out = copy
    before = describe_bank(out)["labelling_seconds"]
    one = json.loads(cost_path(out, 1, 3).read_text())["seconds"]
    cost_path(out, 1, 3).write_text('{"sec')
    shutil.copytree(out / "epoch0000", out / "epoch0000.bak")
    assert describe_bank(out)["labelling_seconds"] == pytest.approx(before - one)


def test_a_file_system_without_locks_or_a_file_in_the_way_gives_no_traceback(weights, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / "file").touch()
    for where in (tmp_path / "file", tmp_path / "file" / "bank"):
        with pytest.raises(UserError, match="cannot be written"):
            build_bank(small_run(weights, epochs=1), where)
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert build_bank(small_run(weights, epochs=1), tmp_path / "bank").views == 896


def test_images_skipped_beyond_the_limit_end_the_labelling(tmp_path, colour_squares):
    data = tmp_path / "squares"
    shutil.copytree(colour_squares, data)
    for file in sorted((data / "train").rglob("*.*"))[:20]:
        file.write_bytes(b"no image")
    run = small_run(save_teacher(tmp_path, num_classes=3), epochs=1)
    config = run.model_copy(
        update={
            "data": DataConfig(root=str(data), num_classes=3, on_corrupt="skip", max_skipped=1),
            "teacher": run.teacher.model_copy(update={"num_classes": 3}),
            "recipe": run.recipe.model_copy(update={"batch_size": 16}),
        }
    )
    with pytest.raises(UserError, match=r"\d images were skipped, data.max_skipped is 1"):
        build_bank(config, tmp_path / "bank")


def test_describe_counts_views_and_bytes(copy):
    _, out = copy
    shard_path(out, 1, 3).unlink()
    about = describe_bank(out)
    assert (about["complete_epochs"], about["incomplete_epochs"], about["views"]) == ([0], [1], 896 + 768)
    assert 0 < about["bytes_per_view"] < 250


def test_folders_that_are_no_bank(tmp_path):
    with pytest.raises(UserError, match="no bank here"):
        Bank(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="not a bank's manifest: format"):
        Bank(tmp_path)
