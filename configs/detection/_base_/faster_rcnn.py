# Faster R-CNN as MMDetection defines it, on four maps of a plain ViT; 14 x 14 windows, four global blocks.
_base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py", "runtime.py"]
model = dict(
    backbone=dict(_delete_=True, type="PlainViT", taps=4, window_size=14),
    neck=dict(_delete_=True, type="FourTapFPN", out_channels=256),
)
