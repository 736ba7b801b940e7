"""Refuse that a DDP module is still there when its group goes; for a script: without_ddp.py SCRIPT [WORD]..."""

import gc
import runpy
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

GONE = "the group went alone"


def watch() -> None:
    """Let `destroy_process_group` raise where a module would outlive its group, and say GONE where none would.

    Each module is put into a reference cycle, as mmengine's runner and a first step may do, and none is freed by luck.
    """
    destroy, build = torch.distributed.destroy_process_group, DistributedDataParallel.__init__

    def build_in_a_cycle(self, *arguments, **options):
        build(self, *arguments, **options)
        self.__dict__["itself"] = self

    def destroy_alone():
        if any(isinstance(one, DistributedDataParallel) for one in gc.get_objects()):
            raise RuntimeError("a DDP module outlives its group")
        destroy()
        print(GONE, flush=True)

    gc.disable()
    DistributedDataParallel.__init__ = build_in_a_cycle
    torch.distributed.destroy_process_group = destroy_alone


if __name__ == "__main__":
    watch()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
