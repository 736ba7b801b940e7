"""examples/timm_loop.py on the very views, weights and teacher of a run of ours; by hand or under torchrun.

Arguments: CONFIG CHECKPOINT LOSSES FIRST_EPOCH END_EPOCH; it goes on from CHECKPOINT if FIRST_EPOCH > 0.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.task import resume_task_checkpoint

from cskd_bench import Teacher
from cskd_bench.config import load_config
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.loader import train_loader
from cskd_bench.data.open import open_source
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.models.students import initial_student

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "timm_loop.py"
CPU = torch.device("cpu")


def load_example():
    spec = importlib.util.spec_from_file_location("timm_loop", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def epochs_of_views(config, rank, world):
    """Every epoch's batches of one rank: views in [0, 1] and soft labels, as the training loop takes them."""
    source = open_source(config.data, config.data.train)
    augment, view_size = config.recipe.augment, config.view_size
    plan = ViewPlan.of(config.recipe, len(source), config.seed)
    views = worker_views(source, augment, view_size, config.seed, config.data)
    batches = iter(train_loader(views, plan, first_step=0, rank=rank, world=world, accumulate=1, workers=0))
    for _ in range(config.recipe.epochs):
        epoch = [next(batches) for _ in range(plan.steps_per_epoch)]
        yield [finish_batch(batch, augment, config.data.num_classes, CPU) for batch in epoch]


def main(config_file, checkpoint, first_epoch, end_epoch, mean=(0, 0, 0), std=(1, 1, 1)):
    """Return the loss of every step, as the mean over ranks."""
    example = load_example()
    losses = train(example, config_file, checkpoint, first_epoch, end_epoch, mean, std)
    if torch.distributed.is_initialized():
        example.leave()
    return losses


def train(example, config_file, checkpoint, first_epoch, end_epoch, mean, std):
    """Train on one rank of several, or alone."""
    config = load_config(config_file)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    classes, epochs = config.data.num_classes, config.recipe.epochs
    size = config.student.image_size
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=size, num_classes=classes)
    model.load_state_dict(initial_student(config).model.state_dict())
    cnn = timm.create_model(config.teacher.name, num_classes=classes)
    cnn.load_state_dict(load_file(config.teacher.weights))
    teacher = Teacher.from_timm(cnn, image_size=config.teacher.image_size)
    task = example.build_task(model, teacher, epochs, mean=mean, std=std)
    data = list(epochs_of_views(config, rank, world))
    optimizer, scheduler = example.build_optimizer(task, epochs, len(data[0]), lr=config.recipe.optim.lr)
    if first_epoch > 0:
        assert resume_task_checkpoint(task, checkpoint, optimizer) == first_epoch
        assert task.epoch == first_epoch - 1
        scheduler.step_update(first_epoch * len(data[0]))
    if world > 1:
        torch.distributed.init_process_group("gloo")
        task.prepare_distributed()
    losses = []
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    for epoch in range(first_epoch, end_epoch):
        batches = [((views - shift) / scale, labels) for views, labels in data[epoch]]
        losses += example.train_one_epoch(epoch, task, batches, optimizer, scheduler)
    if world > 1:
        total = torch.tensor(losses, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        losses = (total / world).tolist()
    if rank == 0:
        example.save(checkpoint, end_epoch - 1, task, optimizer)
    return losses


if __name__ == "__main__":
    config_file, checkpoint, output, first, end = sys.argv[1:]
    losses = main(Path(config_file), checkpoint, int(first), int(end))
    if os.environ.get("RANK", "0") == "0":
        Path(output).write_text(json.dumps(losses))
