# Mask R-CNN 3x + multi-scale (36 epochs), four taps + FPN; drop path follows the student's width.
# Published for a supervised DeiT in this set-up (README of czczup/ViT-Adapter, detection/configs/mask_rcnn;
# results/published.toml): DeiT-Ti 40.2 box AP, 37.0 mask AP; DeiT-S 44.0, 39.9; DeiT-B 45.8, 41.3.
# cskd-bench transfer --task coco --set detect.config=mask_rcnn_3x --checkpoint RUN --data-dir COCO
_base_ = ["_base_/mask_rcnn.py", "_base_/schedule_3x.py", "_base_/drop_path.py"]
