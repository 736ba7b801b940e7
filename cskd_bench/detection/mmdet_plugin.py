"""Makes PlainViT and our necks known to mmdet on import.

In a configuration: `custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"])` (docs/detection.md,
examples/own_mmdet_config.py). Where mmcv's compiled operators are not installed, they come from torchvision; a script
then imports this module before mmdet.apis.
"""

from cskd_bench.detection.operators import install

install()  # before the first import of mmdet's models

from cskd_bench.detection.components import register  # noqa: E402

register()
