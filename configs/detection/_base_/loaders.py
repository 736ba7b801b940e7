# Loading, evaluation and the plain augmentation: short side 800, long side at most 1333, horizontal flip.
# batch_size is the global one, over all ranks. Masks are loaded and scored where the detector has them.
train_dataloader = dict(
    batch_size=16,
    sampler=dict(type="EpochSampler"),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="KeyedCocoDataset",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="Resize", scale=(1333, 800), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(1333, 800), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ],
    ),
)
val_evaluator = dict(type="CocoMetric", metric=["bbox"])
