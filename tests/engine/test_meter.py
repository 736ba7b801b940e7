"""Running means: what a checkpoint keeps of them is every rank's part."""

import pytest
import torch

from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.logs import Meter


class OneOfTwo(Ranks):
    """A rank whose peer holds `other`."""

    other = torch.tensor([9.0, 5.0], dtype=torch.float64)

    def mean(self, values):
        return (values + self.other[: len(values)]) / 2


def test_means_and_state_are_over_both_ranks_and_a_resumed_meter_goes_on_from_them():
    meter, ranks = Meter(), OneOfTwo(0, 2, torch.device("cpu"))
    for total, label in ((1.0, 2.0), (2.0, 5.0)):
        meter.add({"total": torch.tensor(total), "label": torch.tensor(label)})
    assert meter.state(ranks) == {"total": [(3 + 9) / 2, 2.0], "label": [(7 + 5) / 2, 2.0]}
    resumed = Meter(meter.state(ranks))
    resumed.add({"total": torch.tensor(3.0), "label": torch.tensor(0.0)})
    alone = Ranks(0, 1, torch.device("cpu"))
    assert resumed.means(alone) == pytest.approx({"total": 3.0, "label": 2.0})
    assert Meter().state(ranks) == {}
