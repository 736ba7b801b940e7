"""A teacher's strength on a configuration's views, as a file of its own."""

from pathlib import Path

from cskd_bench.bank.agreement import label_agreement
from cskd_bench.bank.store import Bank
from cskd_bench.config import PretrainConfig
from cskd_bench.engine.provenance import code_ref, command_line, now
from cskd_bench.models.teachers import name_teacher, teacher_identity, teacher_weights
from cskd_bench.report.teachers import TeacherMeasure
from cskd_bench.report.tuning import as_set_up


def measure_teacher(bank: Path, config: PretrainConfig) -> TeacherMeasure:
    """Count how often a bank's labels name the class of the view's image; UserError as `label_agreement`."""
    counted = label_agreement(bank, config)
    manifest = Bank(bank).manifest
    weights = manifest.teacher["weights"]
    return TeacherMeasure(
        student=config.model_name,
        pretrain_data=config.data_name,
        pretrain_recipe=config.recipe_fingerprint(),
        seed=config.seed,
        teacher=teacher_in_words(config),
        weights=str(weights)[:12] if weights else "timm",
        grid=manifest.grid,
        views=counted.views,
        global_top1=counted.global_top1,
        local_top1=counted.local_top1,
        local_is_global=counted.local_is_global,
        command=command_line(),
        created=now(),
        code=code_ref(),
        versions=manifest.versions,
    )


def teacher_in_words(config: PretrainConfig) -> str:
    """Name the teacher as tables do, with resolution and stride: `tf_efficientnet_lite0 at 128 px`."""
    return name_teacher(config.teacher.name, "", config.teacher.precision) + as_set_up(config.teacher.model_dump())


def exact_teacher(config: PretrainConfig) -> str:
    """Name the teacher as tables do, with the hash of its weights where their file is here."""
    if not config.teacher.weights or not teacher_weights(config.teacher).is_file():
        return teacher_in_words(config)
    return teacher_identity(config.teacher) + as_set_up(config.teacher.model_dump())
