# Faster R-CNN 3x + multi-scale (36 epochs) for students up to the width of DeiT-S, four taps + FPN.
# No published score of a plain DeiT-S in this set-up is in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=faster_rcnn_3x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/faster_rcnn.py", "_base_/schedule_3x.py"]
model = dict(backbone=dict(drop_path=0.2))
