# Faster R-CNN 3x + multi-scale (36 epochs), four taps + FPN; drop path follows the student's width.
# No published score of a plain DeiT in this set-up is in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=faster_rcnn_3x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/faster_rcnn.py", "_base_/schedule_3x.py", "_base_/drop_path.py"]
