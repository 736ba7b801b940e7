# ViTDet Mask R-CNN, 100 epochs, large-scale jittering, for students up to the width of DeiT-Ti, at 640 px.
# Published for a supervised DeiT-Ti at 640 px: 40.4 box AP, 35.5 mask AP
# (MAE-Lite, DETECTION.md; results/published.toml).
# cskd-bench transfer --task coco --set detect.config=vitdet_100e --checkpoint RUN --data-dir COCO
_base_ = ["_base_/vitdet_100e.py"]
model = dict(
    data_preprocessor=dict(batch_augments=[dict(type="BatchFixedSizePad", size=(640, 640), pad_mask=True)]),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandomResize", scale=(640, 640), ratio_range=(0.1, 2.0), keep_ratio=True),
            dict(
                type="RandomCrop",
                crop_type="absolute",
                crop_size=(640, 640),
                recompute_bbox=True,
                allow_negative_crop=True,
            ),
            dict(type="FilterAnnotations", min_gt_bbox_wh=(0.01, 0.01)),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(640, 640), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    )
)
