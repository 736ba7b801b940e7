"""Folded teachers answer as before, with fewer operations."""

import pytest
import timm
import torch
from torch import nn

from cskd_bench.models.folding import fold_batch_norms


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "regnety_002", "resnet10t"])
def test_folding_keeps_the_features(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    views = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model.forward_features(views)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        assert fold_batch_norms(model, views[:1]) == norms > 0
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        torch.testing.assert_close(model.forward_features(views), before, rtol=1e-3, atol=1e-3 * float(before.std()))


class Shared(nn.Module):
    """The convolution's output is used again after the norm: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        nn.init.constant_(self.bn.weight, 3)

    def forward_features(self, inputs):
        output = self.conv(inputs)
        return self.bn(output) + output


def test_folding_that_would_change_the_answer_is_refused():
    with pytest.raises(ValueError, match="changes the features"):
        fold_batch_norms(Shared().eval(), torch.ones(1, 3, 2, 2))
