"""What a bench loads for detection cells, in the server that forks them: MMDetection and MMEngine, on import.

Both ask torch for a GPU when they are imported, and a process that has asked cannot fork one that uses it. So torch
says that there is none; each cell says later which it has.
"""

import torch

from cskd_bench.device import only

with only(torch.device("cpu")):
    import cskd_bench.detection.mmdet_plugin
    import cskd_bench.detection.runner_device  # noqa: F401
