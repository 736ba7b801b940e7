# Mask R-CNN 1x (12 epochs), four taps + FPN; drop path follows the student's width.
# No published score of a plain DeiT in this set-up is in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=mask_rcnn_1x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/mask_rcnn.py", "_base_/schedule_1x.py", "_base_/drop_path.py"]
