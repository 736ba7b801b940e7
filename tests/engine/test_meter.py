"""Running means: what a checkpoint keeps of them is every rank's part."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.logs import Meter, stack


class OneOfTwo(Ranks):
    """A rank whose peer holds `other`."""

    other = torch.tensor([9.0, 5.0], dtype=torch.float64)

    def mean(self, values):
        return (values + self.other[: len(values)]) / 2


def test_means_and_state_are_over_both_ranks_and_a_resumed_meter_goes_on_from_them():
    meter, ranks = Meter(), OneOfTwo(0, 2, torch.device("cpu"))
    for total, label in ((1.0, 2.0), (2.0, 5.0)):
        meter.add(*stack({"total": torch.tensor(total), "label": torch.tensor(label)}))
    assert meter.state(ranks) == {"total": [(3 + 9) / 2, 2.0], "label": [(7 + 5) / 2, 2.0]}
    resumed = Meter(meter.state(ranks))
    resumed.add(*stack({"total": torch.tensor(3.0), "label": torch.tensor(0.0)}))
    alone = Ranks(0, 1, torch.device("cpu"))
    assert resumed.means(alone) == pytest.approx({"total": 3.0, "label": 2.0})
    assert Meter().state(ranks) == {}


class Counting(TorchDispatchMode):
    """Counts the kernels that would start on a device."""

    kernels = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        views = ("detach", "unsqueeze", "alias", "view")
        self.kernels += not any(word in str(function) for word in views)
        return function(*arguments, **(options or {}))


def test_a_micro_batch_costs_the_metres_four_kernels():
    """A cast and an addition for each part and metre were sixteen."""
    window, epoch = Meter(), Meter()
    parts = {name: torch.tensor(1.0) for name in ("label", "global", "spatial", "total")}

    def add():
        names, values = stack(parts)
        window.add(names, values)
        epoch.add(names, values)

    add()
    with Counting() as counting:
        add()
    assert counting.kernels == 4
    assert window.means(Ranks(0, 1, torch.device("cpu"))) == dict.fromkeys(parts, 1.0)


def test_a_resumed_meter_keeps_what_has_not_come_again():
    ranks = Ranks(0, 1, torch.device("cpu"))
    meter = Meter()
    meter.add(*stack({"label": torch.tensor(1.0)}))
    meter.add(*stack({"agreement": torch.tensor(0.5)}))
    resumed = Meter(meter.state(ranks))
    resumed.add(*stack({"label": torch.tensor(3.0)}))
    assert resumed.state(ranks) == {"label": [4.0, 2.0], "agreement": [0.5, 1.0]}
    assert list(resumed.means(ranks)) == list(meter.means(ranks))
