# Faster R-CNN on coco_mini (boxes only): shows on real images that everything runs; the AP is a smoke figure
# (0.05 % with a student pretrained on Imagenette; results/first_look).
# cskd-bench transfer --task coco_mini --checkpoint RUN
_base_ = ["_base_/faster_rcnn.py", "_base_/loaders.py"]
model = dict(
    backbone=dict(taps=1, window_size=0),
    neck=dict(_delete_=True, type="SimpleFeaturePyramid", out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=64), bbox_head=dict(in_channels=64, fc_out_channels=256)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="Resize", scale=(256, 192), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(256, 192), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    )
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=4)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[9], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-4, weight_decay=0.05),
    constructor="LayerDecay",
    paramwise_cfg=dict(layer_decay=0.9),
    clip_grad=dict(max_norm=1.0),
)
