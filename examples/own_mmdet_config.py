# A stock configuration of mmdet with a student as its backbone; train it with mmdet's own tools:
#   python tools/train.py examples/own_mmdet_config.py --cfg-options model.backbone.run=RUN
# RUN is a pretraining's folder, what `cskd-bench export --checkpoint RUN --to timm` writes, or timm:NAME; here it is
# timm's DeiT-Ti, which is downloaded. Other detectors and students without a run: docs/detection.md.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"], allow_failed_imports=False)
model = dict(
    # four maps from evenly spaced depths; attention within 14 x 14 patches in all but four blocks
    backbone=dict(_delete_=True, type="PlainViT", run="timm:deit_tiny_distilled_patch16_224", taps=4, window_size=14),
    neck=dict(_delete_=True, type="FourTapFPN", in_channels=192, out_channels=256),
)
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05))
