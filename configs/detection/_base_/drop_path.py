# Stochastic depth by the student's width: the first entry that is wide enough is merged into the configuration.
by_width = [
    dict(up_to=192, model=dict(backbone=dict(drop_path=0.1))),  # DeiT-Ti
    dict(up_to=384, model=dict(backbone=dict(drop_path=0.2))),  # DeiT-S
    dict(up_to=None, model=dict(backbone=dict(drop_path=0.3))),
]
