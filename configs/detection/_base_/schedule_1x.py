# 12 epochs of AdamW, global batch 16; the rate falls tenfold after epochs 8 and 11.
_base_ = ["loaders.py"]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    constructor="LayerDecay",
    paramwise_cfg=dict(layer_decay=1.0),
)
