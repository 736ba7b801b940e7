"""On a GPU: making views and their targets never lets the host wait for the device."""

import pytest
import torch

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.open import open_source
from cskd_bench.data.view_plan import ViewPlan


@pytest.mark.parametrize(("engine", "policy"), [("pil", "randaugment"), ("tensor", "randaugment"), ("tensor", "three")])
def test_views_are_finished_without_a_host_sync(colour_squares, engine, policy):
    source = open_source(DataConfig(root=str(colour_squares), num_classes=3), "train")
    augment = AugmentConfig(engine=engine, policy=policy, erasing=1.0)
    keys = ViewPlan(images=48, batch_size=16, repeats=3, epochs=1, seed=5).keys(0)
    views, device = worker_views(source, augment, 32, 5, DataConfig()), torch.device("cuda")
    finish_batch(views.__getitems__(keys).pin_memory(), augment, 3, device)  # the noise table is made once
    batch = views.__getitems__(keys).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made, _ = finish_batch(batch, augment, 3, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.is_cuda and len(made) == len(keys)
    if engine == "pil":  # a GPU erases and mixes by masks, a CPU box by box; warps of the other engine round otherwise
        expected, _ = finish_batch(views.__getitems__(keys), augment, 3, torch.device("cpu"))
        torch.testing.assert_close(made.cpu(), expected, atol=1e-6, rtol=0)
