"""The plan for short GPU jobs: its teacher fits what a job brings back and the student's patches."""

import timm
from safetensors.torch import save

from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.models.teachers import build_teacher
from cskd_bench.schema import shipped

MOST = 16 * 2**20  # bytes of a file that some jobs bring back


def test_the_teacher_is_what_students_ask_for_and_is_small_and_its_map_divides_the_patches(tmp_path):
    file = shipped("configs") / "benchmarks" / "evidence_gpu.toml"
    cells = expand(load_plan(file), file)
    trained, asked = cells.teacher.config, cells.pretrain[0].config.teacher
    assert (trained.student.name, trained.student.image_size) == (asked.name, asked.image_size)
    assert trained.data == cells.pretrain[0].config.data and trained.data.num_classes == asked.num_classes == 100
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(save(timm.create_model(asked.name, num_classes=asked.num_classes).state_dict()))
    assert weights.stat().st_size < MOST
    classes = [str(number) for number in range(100)]
    height, width = build_teacher(asked.model_copy(update={"weights": str(weights)}), classes, 100).grid()
    student = cells.pretrain[0].config.student
    patches = student.image_size // student.patch_size
    assert min(height, width) > 2 and patches % height == patches % width == 0


def test_all_cells_of_a_seed_see_the_same_views_of_the_students_size():
    file = shipped("configs") / "benchmarks" / "evidence_gpu.toml"
    configs = [cell.config for cell in expand(load_plan(file), file).pretrain]
    assert {(config.view_size, config.recipe_fingerprint()) for config in configs} == {
        (64, configs[0].recipe_fingerprint())
    }
    assert {config.run.cache for config in configs} == {"memory"}
