"""The main process's part of a step as the release before did it, for `speed --part host` to stand beside.

`python tests/speed/host_before.py FILE` measures both in one run, and timm's, and writes FILE.
"""

import sys
from pathlib import Path

from helpers import views_before
from timm.utils.model_ema import ModelEmaV3

from cskd_bench.data.mixing import to_float
from cskd_bench.speed.host import AUGMENT, CLASSES, DECAY, HostStep
from cskd_bench.speed.run import run_speed


def before_side(step: HostStep):
    """Return the release before's part: keys, boxes and groups one by one, train(), an average by state_dict."""
    average = ModelEmaV3(step.model, decay=DECAY)

    def run():
        keys = step.plan.share(0, 0, 1)
        batch = step.batch()
        views = views_before.erase(to_float(batch.pixels), keys, AUGMENT, 0)
        views_before.mix(views, batch.labels, keys, AUGMENT, CLASSES, 0)
        step.model.train()
        average.update(step.model)

    return run


if __name__ == "__main__":
    run_speed("host", Path(sys.argv[1]), rounds=5, clock="cpu", before={"the release before": before_side})
