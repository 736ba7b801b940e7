# Mask R-CNN 3x + multi-scale (36 epochs) for students up to the width of DeiT-B, four taps + FPN.
# Published for a supervised DeiT-B in this set-up: 45.8 box AP, 41.3 mask AP
# (README of czczup/ViT-Adapter, detection/configs/mask_rcnn; results/published.toml).
# cskd-bench transfer --task coco --set detect.config=mask_rcnn_3x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/mask_rcnn.py", "_base_/schedule_3x.py"]
model = dict(backbone=dict(drop_path=0.3))
