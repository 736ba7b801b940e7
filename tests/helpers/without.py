"""A pytest plugin that hides the packages of the extra `detection`: `pytest -p helpers.without`."""

import sys

HIDDEN = ("mmdet", "mmengine", "mmcv", "pycocotools", "faster_coco_eval")


class Hidden:
    """Says of hidden packages that they are not there."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
