"""A detection run's folder: pointers and curves that were damaged, and the best of several epochs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.detection import operators
from cskd_bench.detection.folder import epochs_done, mend_pointer, read_curve
from cskd_bench.errors import UserError

operators.install()

from mmengine.logging import MessageHub  # noqa: E402

from cskd_bench.detection.epoch_lines import EpochLines  # noqa: E402


@pytest.mark.parametrize(
    "pointer", ["", "epoch", "/elsewhere/epoch_4.pth", "{folder}/epoch_9.pth", "{folder}/best.pth"]
)
def test_a_pointer_to_nothing_is_mended_to_the_newest_file(tmp_path, pointer):
    for name in ("epoch_2.pth", "epoch_10.pth", "best.pth", "epoch_x.pth"):
        (tmp_path / name).touch()
    file = tmp_path / "last_checkpoint"
    file.write_text(pointer.format(folder=tmp_path))
    assert epochs_done(tmp_path) == 0
    assert mend_pointer(tmp_path) == epochs_done(tmp_path) == 10
    assert file.read_text() == str(tmp_path / "epoch_10.pth")


def test_a_pointer_that_is_right_is_left_even_where_a_newer_file_was_begun(tmp_path):
    (tmp_path / "epoch_1.pth").touch()
    (tmp_path / "epoch_2.pth").touch()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    assert mend_pointer(tmp_path) == epochs_done(tmp_path) == 1


def test_a_folder_without_a_whole_epoch_begins_anew(tmp_path):
    (tmp_path / "epoch_1.pth").touch()  # perhaps half of it: the pointer comes last
    assert mend_pointer(tmp_path) == 0
    (tmp_path / "epoch_1.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("")
    assert mend_pointer(tmp_path) == 0 and not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize(
    "content", [b"", b'{"1": {"loss": 1.0', b"[]", b"\xff\xfe", b'{"1": 2}', b'{"one": {}}', b'{"1": {"loss": "much"}}']
)
def test_a_damaged_curve_is_none(tmp_path, content):
    (tmp_path / "curve.json").write_bytes(content)
    assert read_curve(tmp_path) is None


class Run(SimpleNamespace):
    """A Runner of four epochs that scores every second one, as far as EpochLines looks at it."""

    def __init__(self, folder, epoch=0):
        super().__init__(work_dir=str(folder), epoch=epoch, max_epochs=5, scored=[])
        self.message_hub = MessageHub(f"run {folder} {epoch}")
        self.train_dataloader = [0, 0]
        self.val_loop = SimpleNamespace(run=lambda: self.scored.append(self.epoch))
        self.train_loop = SimpleNamespace(val_interval=2)

    def save_checkpoint(self, folder, name, *, meta, **_):
        Path(folder, name).write_text(json.dumps(meta))

    def train(self, lines, loss, box_ap=None):
        """Train an epoch, and score it where a score is given; return what its checkpoint holds."""
        for _ in self.train_dataloader:
            self.message_hub.update_scalar("train/loss", loss)
        lines.after_train_epoch(self)
        kept = self.message_hub.state_dict()
        self.epoch += 1
        if box_ap is not None:
            lines.after_val_epoch(self, {"coco/bbox_mAP": box_ap})
        return kept


def best(folder):
    return json.loads((folder / "best.pth").read_text())


def test_the_best_weights_are_those_of_the_highest_score_and_the_first_of_equals(tmp_path):
    lines, run = EpochLines(), Run(tmp_path)
    lines.before_train(run)
    for box_ap, epoch in ((0.0, 1), (None, 1), (0.2, 3), (0.2, 3), (0.1, 3)):
        run.train(lines, 1.0, box_ap)
        assert best(tmp_path)["epoch"] == epoch
    lines.after_val_epoch(run, {"coco/bbox_mAP": 0.3})  # the last epoch is scored anew
    assert best(tmp_path) == {"epoch": 5, "box_ap": 0.3}
    (tmp_path / "best.pth").unlink()
    lines.after_val_epoch(run, {"coco/bbox_mAP": 0.3})  # once more, with its own score in the curve
    assert best(tmp_path) == {"epoch": 5, "box_ap": 0.3}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_goes_on_with_its_curve_and_its_best(tmp_path, damaged):
    """Every second epoch is scored; the process ended after epoch 4 was kept and before it was scored."""
    lines, run = EpochLines(), Run(tmp_path)
    lines.before_train(run)
    for epoch in range(1, 5):
        kept = run.train(lines, 1 / epoch, 0.5 if epoch == 2 else None)
    if damaged:
        (tmp_path / "curve.json").write_text('{"1": {"ep')
    else:
        run.train(lines, 9.0)  # the fifth epoch was noted, but not kept
    resumed = Run(tmp_path, 4)
    resumed.message_hub.load_state_dict(kept)
    lines.before_train(resumed)
    assert resumed.scored == [4] and read_curve(tmp_path).keys() == {"1", "2", "3", "4"}
    lines.after_val_epoch(resumed, {"coco/bbox_mAP": 0.4})
    resumed.train(lines, 0.2, 0.3)
    curve = read_curve(tmp_path)
    assert [curve[str(epoch)]["loss"] for epoch in range(1, 6)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 0.2])
    assert {key: entry["box_ap"] for key, entry in curve.items() if "box_ap" in entry} == {"2": 0.5, "4": 0.4, "5": 0.3}
    assert best(tmp_path)["epoch"] == 2


def test_a_lost_curve_that_no_checkpoint_holds_is_told(tmp_path):
    with pytest.raises(UserError, match=r"curve\.json: missing or damaged; remove .* to train again"):
        EpochLines().before_train(Run(tmp_path, 3))
