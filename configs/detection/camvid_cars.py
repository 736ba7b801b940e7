# ATSS on CamVid's cars at 480 x 360 px, for small students of patch size 16: minutes on two cores.
# cskd-bench transfer --task camvid240_cars --checkpoint RUN
_base_ = ["_base_/runtime.py", "_base_/loaders.py"]
model = dict(
    type="ATSS",
    data_preprocessor=dict(type="DetDataPreprocessor", bgr_to_rgb=True),
    backbone=dict(type="PlainViT", taps=1),
    neck=dict(type="SimpleFeaturePyramid", out_channels=64, start_level=1, num_outs=3),
    bbox_head=dict(
        type="ATSSHead",
        num_classes=1,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], octave_base_scale=3, scales_per_octave=1, strides=[8, 16, 32]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=300, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=50
    ),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="RandomResize", scale=(480, 360), ratio_range=(0.8, 1.25), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(480, 360), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    ),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=16, val_interval=16)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=16, milestones=[12, 14], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
