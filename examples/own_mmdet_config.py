# A stock mmdet configuration with a student as its backbone; train it with mmdet's own tools:
#   python tools/train.py examples/own_mmdet_config.py \
#       --cfg-options model.backbone.weights=EXPORT/model.safetensors
# EXPORT is what `cskd-bench export --checkpoint RUN --to timm` writes; without weights the student is untrained.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="PlainViT",
        timm_name="deit_tiny_distilled_patch16_224",
        weights="",
        taps=4,  # four maps, from evenly spaced depths
        window_size=14,  # attention within 14 x 14 patches in all but four blocks
    ),
    neck=dict(_delete_=True, type="FourTapFPN", in_channels=192, out_channels=256),
)
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05))
