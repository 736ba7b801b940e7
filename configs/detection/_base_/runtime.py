# How a run is carried out. The seed, the folders, the classes and everything that follows from the student
# (channels, strides, normalisation) are filled in by cskd_bench.detection.settings.
default_scope = "mmdet"
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [dict(type="KeyedSteps"), dict(type="EpochLines")]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
log_level = "ERROR"
val_cfg = dict(type="ValLoop")
