# ViTDet's recipe: Mask R-CNN on a simple feature pyramid, layer-wise rates, 100 epochs of large-scale jittering, batch
# 64, at 1024 px; students up to the width of DeiT-Ti at 640 px. Heads are normed with GroupNorm of one group.
# Published for ViT-B/16, supervised on ImageNet-1k, 14 x 14 windows and 4 global blocks: 47.6 box AP, 42.4 mask AP
# (arXiv 2203.16527, table 4); for a supervised DeiT-Ti at 640 px: 40.4 box AP, 35.5 mask AP (MAE-Lite, DETECTION.md);
# none of a plain DeiT-S. All are in results/published.toml.
# cskd-bench transfer --task coco --set detect.config=vitdet_100e --checkpoint RUN --data-dir COCO
_base_ = ["_base_/mask_rcnn.py", "_base_/loaders.py"]
model = dict(
    backbone=dict(taps=1, drop_path=0.1),
    neck=dict(_delete_=True, type="SimpleFeaturePyramid", out_channels=256),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(
            type="Shared4Conv1FCBBoxHead",
            conv_out_channels=256,
            norm_cfg=dict(type="GN", num_groups=1, requires_grad=True),
        ),
        mask_head=dict(norm_cfg=dict(type="GN", num_groups=1, requires_grad=True)),
    ),
)
train_dataloader = dict(batch_size=64)
by_width = [
    dict(
        up_to=up_to,
        model=dict(
            data_preprocessor=dict(batch_augments=[dict(type="BatchFixedSizePad", size=(side, side), pad_mask=True)])
        ),
        train_dataloader=dict(
            dataset=dict(
                pipeline=[
                    dict(type="LoadImageFromFile"),
                    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
                    dict(type="RandomFlip", prob=0.5),
                    dict(type="RandomResize", scale=(side, side), ratio_range=(0.1, 2.0), keep_ratio=True),
                    dict(
                        type="RandomCrop",
                        crop_type="absolute",
                        crop_size=(side, side),
                        recompute_bbox=True,
                        allow_negative_crop=True,
                    ),
                    dict(type="FilterAnnotations", min_gt_bbox_wh=(0.01, 0.01)),
                    dict(type="PackDetInputs"),
                ]
            )
        ),
        val_dataloader=dict(
            dataset=dict(
                pipeline=[
                    dict(type="LoadImageFromFile"),
                    dict(type="Resize", scale=(side, side), keep_ratio=True),
                    dict(
                        type="PackDetInputs",
                        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                    ),
                ]
            )
        ),
    )
    for up_to, side in ((192, 640), (None, 1024))
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_interval=5)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=100, milestones=[89, 96], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.1),
    constructor="LayerDecay",
    paramwise_cfg=dict(layer_decay=0.7),
)
