"""Run a script, and refuse that a DDP module is still there when its group goes: without_ddp.py SCRIPT [WORD]..."""

import gc
import runpy
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

destroy = torch.distributed.destroy_process_group


def destroy_alone():
    """End the group; SystemExit where a module would outlive it."""
    if any(isinstance(one, DistributedDataParallel) for one in gc.get_objects()):
        raise SystemExit("a DDP module outlives its group")
    destroy()
    print("the group went alone", flush=True)


torch.distributed.destroy_process_group = destroy_alone
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
