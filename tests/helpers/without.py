"""A pytest plugin that hides the packages of the extra `detection`: `pytest -p helpers.without`."""

from importlib.machinery import PathFinder

HIDDEN = ("mmdet", "mmengine", "mmcv", "pycocotools", "faster_coco_eval")
_find = PathFinder.find_spec


def find_spec(name, path=None, target=None):
    """Find what is installed, but for the hidden packages."""
    return None if name.split(".")[0] in HIDDEN else _find(name, path, target)


PathFinder.find_spec = staticmethod(find_spec)
