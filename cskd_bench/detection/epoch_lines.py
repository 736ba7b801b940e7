"""What each epoch came to: on the terminal, in curve.json, and the weights that scored best. Import after install()."""

import sys
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.hooks import Hook

from cskd_bench.detection.folder import BEST, Curve, lost_curve, read_curve, write_curve
from cskd_bench.files import write_file

_KEPT = "curve"  # the curve's name in MMEngine's message hub, which every checkpoint holds


class EpochLines(Hook):  # type: ignore[misc]
    """Tells the terminal, and curve.json in the run's folder, each epoch's mean loss and box AP (main rank only).

    The weights of the epoch with the highest box AP, the first of equals, stay in best.pth.
    """

    def before_train(self, runner: Any) -> None:
        """Score the epoch after which an earlier process was stopped, if it had not been; mmengine calls this.

        A damaged curve is read from the checkpoint. Raises UserError where that has none.
        """
        epoch, curve = runner.epoch, self._read(runner)
        if epoch and str(epoch) not in curve:
            raise lost_curve(Path(runner.work_dir))
        if get_dist_info()[0] == 0:  # without what came after the checkpoint
            self._write(runner, {key: entry for key, entry in curve.items() if int(key) <= epoch})
        due = 0 < epoch < runner.max_epochs and epoch % runner.train_loop.val_interval == 0
        if due and "box_ap" not in curve[str(epoch)]:
            runner.val_loop.run()

    def after_train_epoch(self, runner: Any) -> None:
        """Note the loss; mmengine calls this before it writes the epoch's checkpoint."""
        losses = runner.message_hub.get_scalar("train/loss").data[0][-len(runner.train_dataloader) :]
        self._note(runner, runner.epoch + 1, "loss", float(losses.mean()))

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the weights if they are the best so far, then note the box AP (0 where nothing was detected).

        In this order, so that a process that is killed in between scores, and keeps, again. mmengine calls this.
        """
        if get_dist_info()[0] != 0:
            return
        epoch, found = runner.epoch, float((metrics or {}).get("coco/bbox_mAP", 0.0))
        curve = self._read(runner)
        if all(found > entry.get("box_ap", -1.0) for key, entry in curve.items() if int(key) < epoch):
            _keep_best(runner, epoch, found)
        self._note(runner, epoch, "box_ap", found)

    def _note(self, runner: Any, epoch: int, name: str, value: float) -> None:
        if get_dist_info()[0] != 0:
            return
        curve = self._read(runner)
        curve.setdefault(str(epoch), {"epoch": float(epoch)})[name] = value
        self._write(runner, curve)
        print(f"epoch {epoch}/{runner.max_epochs}: {name} {value:.3f}", file=sys.stderr, flush=True)

    def _read(self, runner: Any) -> Curve:
        """Return the curve from its file, or else as the checkpoint that was resumed holds it."""
        curve = read_curve(Path(runner.work_dir))
        if curve is not None:
            return curve
        kept: Curve = runner.message_hub.runtime_info.get(_KEPT, {})
        return {epoch: dict(entry) for epoch, entry in kept.items()}

    def _write(self, runner: Any, curve: Curve) -> None:
        write_curve(Path(runner.work_dir), curve)
        runner.message_hub.update_info(_KEPT, curve)


def _keep_best(runner: Any, epoch: int, box_ap: float) -> None:
    """Write the detector's weights, without what only training needs."""

    def save(file: Path) -> None:
        meta = {"epoch": epoch, "box_ap": box_ap}
        runner.save_checkpoint(
            str(file.parent), file.name, save_optimizer=False, save_param_scheduler=False, meta=meta, by_epoch=False
        )

    write_file(Path(runner.work_dir) / BEST, save)
