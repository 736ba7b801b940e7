# ViTDet Mask R-CNN, 100 epochs, large-scale jittering at 1024 px, for students up to the width of DeiT-S.
# No published score of a plain DeiT-S in this set-up is in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=vitdet_100e --checkpoint RUN --data-dir COCO
_base_ = ["_base_/vitdet_100e.py"]
