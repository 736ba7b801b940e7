"""The moving average is timm's to the bit, for weights, running statistics and counts."""

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from cskd_bench.engine.average import WeightAverage


def test_the_average_is_timms_through_updates_and_a_loaded_state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    ours, theirs = WeightAverage(model, 0.9), ModelEmaV3(model, decay=0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(6):
        if step == 3:  # as a resumed run does
            state = {name: value.clone() for name, value in ours.module.state_dict().items()}
            ours.module.load_state_dict(state)
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
        model(torch.rand(5, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        ours.update(model)
        theirs.update(model)
    found, expected = ours.module.state_dict(), theirs.module.state_dict()
    assert found.keys() == expected.keys() and int(found["1.num_batches_tracked"]) == 6
    assert all(torch.equal(found[name], expected[name]) for name in expected)
