# Mask R-CNN 1x (12 epochs) for students up to the width of DeiT-B, four taps + FPN.
# No published score of a plain DeiT-B in this set-up is in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=mask_rcnn_1x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/mask_rcnn.py", "_base_/schedule_1x.py"]
model = dict(backbone=dict(drop_path=0.3))
