"""Explain one image: what teacher and student see at every place, and where the student looks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from cskd_bench.data.decode import decode
from cskd_bench.data.mixing import resize_view, to_float
from cskd_bench.data.views import EvalView
from cskd_bench.errors import UserError
from cskd_bench.explain.figures import draw_attention, draw_distances, draw_labels
from cskd_bench.explain.labels import LabelMaps, label_maps
from cskd_bench.models.attention import attention_maps, has_standard_attention, mean_distance
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.students import Student
from cskd_bench.models.teachers import build_teacher
from cskd_bench.models.weights import Weights


def explain(checkpoint: Path, image: Path, output: Path, weights: Weights = "raw", *, model: str = "") -> list[Path]:
    """Draw label maps, attention and attention distances of one image; returns the PNG files written.

    `model` is the timm name of a weights file's architecture. The teacher is drawn for a pretraining run of ours alone.
    Raises UserError for an unreadable image, and for a checkpoint that cannot be loaded, has no head, or is not a plain
    ViT's.
    """
    picture = read_image(image)
    loaded = load_checkpoint(checkpoint, model=model, weights=weights)
    student, size = loaded.student, loaded.image_size
    if loaded.num_classes == 0:
        raise UserError(f"{checkpoint}: has no head to draw labels with ({loaded.no_head})")
    if not has_standard_attention(student.model):
        raise UserError(f"{checkpoint}: explain draws plain ViTs; {loaded.model.name} has no patch tokens")
    config = None if loaded.tuning else loaded.pretrain_config
    teacher = None
    if config and config.method.needs_teacher:
        teacher = build_teacher(config.teacher, loaded.classes, loaded.num_classes)
    view = EvalView(max(config.view_size, size) if config else size, loaded.crop, loaded.interpolation)
    views = to_float(view(picture)).unsqueeze(0)
    pixels = views[0].permute(1, 2, 0).numpy()
    names = class_names(loaded.classes, loaded.num_classes)
    maps = label_maps(student, teacher, views, size)
    attention = attention_maps(student, resize_view(views, size))

    stem = output / image.stem
    files = [Path(f"{stem}_{kind}.png") for kind in ("labels", "attention", "distance")]
    draw_labels(pixels, maps, names, labels_title(maps, names, student), files[0])
    prefix = student.model.num_prefix_tokens
    tokens = [("class token", 0)] + ([("distillation token", 1)] if prefix > 1 else [])
    looking = (
        f"Where the student's last block looks ({loaded.checkpoint.run}, block {len(attention)} of {len(attention)})"
    )
    draw_attention(pixels, attention[-1], tokens, student.grid, looking, files[1])
    patch = size / student.grid[0]
    distances = [mean_distance(weights, student.grid, patch, prefix) for weights in attention]
    draw_distances(distances, size, distance_title(distances, size), files[2])
    return files


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB; UserError for anything else."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a readable image (it is no file)")  # a pipe or a device may never end
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: not a readable image ({error.strerror})") from error
    return decode(content, str(path))


def class_names(classes: Sequence[str], num_classes: int) -> list[str]:
    """Return a word for each class: ImageNet's synsets by their first name, other classes as they are called."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = set(info.label_names())
    names = [info.label_name_to_description(name).split(",")[0] if name in synsets else name for name in classes]
    return names + [f"class {index}" for index in range(len(names), num_classes)]


def labels_title(maps: LabelMaps, names: Sequence[str], student: Student) -> str:
    """Say in a line what the label maps show."""
    answer = names[maps.predicted]
    agreeing = float((maps.student.labels == maps.predicted).float().mean())
    words = f'The student says "{answer}", and so do {100 * agreeing:.0f} % of its patches'
    if student.heads == "class":
        words += " (read by the class head, never trained on patches)"
    if maps.agreement is not None:
        words += (
            f"\nPooled to the teacher's places, its labels are the teacher's local ones at {100 * maps.agreement:.0f} %"
        )
    return words


def distance_title(distances: Sequence[torch.Tensor], size: int) -> str:
    """Say in a line how far the first and the last block look."""
    first, last = float(distances[0].mean()), float(distances[-1].mean())
    return f"How far heads look: {first:.0f} px in the first block, {last:.0f} px in the last (image of {size} px)"
