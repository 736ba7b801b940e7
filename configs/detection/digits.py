# Mask R-CNN on digits scattered over a 96 px canvas, for the quickstart's student: minutes on two cores.
# cskd-bench transfer --task digits_detection --checkpoint RUN
_base_ = ["_base_/mask_rcnn.py", "_base_/loaders.py"]
model = dict(
    backbone=dict(taps=1, window_size=0),
    neck=dict(_delete_=True, type="SimpleFeaturePyramid", out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=128),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=32, num_convs=2),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=48)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=True),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(96, 96), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    ),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=4, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=4, milestones=[3], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    constructor="LayerDecay",
    paramwise_cfg=dict(layer_decay=1.0),
    clip_grad=dict(max_norm=1.0),
)
