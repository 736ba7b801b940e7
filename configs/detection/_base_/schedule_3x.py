# 36 epochs of AdamW, global batch 16; the rate falls tenfold after epochs 27 and 33.
# Multi-scale: short side from 480 to 800, long side at most 1333.
_base_ = ["loaders.py"]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    constructor="LayerDecay",
    paramwise_cfg=dict(layer_decay=1.0),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(
                type="RandomChoiceResize",
                scales=[(1333, side) for side in range(480, 801, 32)],
                keep_ratio=True,
            ),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    )
)
