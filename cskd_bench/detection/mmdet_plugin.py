"""Registers our backbone and necks on import: `custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"])`.

For mmdet configurations of one's own (examples/own_mmdet_config.py). Without compiled operators mmcv's come from
torchvision.
"""

from cskd_bench.detection.operators import install

install()  # before the first import of mmdet's models

from cskd_bench.detection.components import register  # noqa: E402

register()
