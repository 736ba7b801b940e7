# ViTDet Mask R-CNN, 100 epochs, large-scale jittering at 1024 px, for students wider than DeiT-S.
# Published for ViT-B/16, supervised on ImageNet-1k, 14 x 14 windows and 4 global blocks: 47.6 box AP, 42.4 mask AP
# (arXiv 2203.16527, table 4; results/published.toml). Heads are normed with GroupNorm of one group.
# cskd-bench transfer --task coco --set detect.config=vitdet_100e --checkpoint RUN --data-dir COCO
_base_ = ["_base_/vitdet_100e.py"]
