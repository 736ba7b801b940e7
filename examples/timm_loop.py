"""CSKD in a stock timm loop; the five lines with a number are ours.

    python examples/timm_loop.py                                      # generated images, 20 steps on a CPU
    torchrun --nproc-per-node 8 examples/timm_loop.py --data IMAGENET --teacher regnety_160.deit_in1k \
        --image-size 224 --num-classes 1000 --batch-size 128 --epochs 300 --amp

The same command goes on from `--checkpoint` where that file is there.
"""

import argparse
import gc
from pathlib import Path

import timm
import torch
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.task import resume_task_checkpoint
from timm.utils.distributed import init_distributed_device_so
from torchvision.datasets import FakeData

from cskd_bench import CSKDLoss, CSKDTask, Student, Teacher  # 1


def build_task(model, teacher, epochs, **normalisation):
    """Make the task of a distilled timm ViT and a timm CNN."""
    student = Student(model, heads="class+dist+patch")  # 2
    return CSKDTask(student, teacher, CSKDLoss(alpha=0.5, decay="linear"), epochs=epochs, **normalisation)  # 3


def build_optimizer(task, epochs, steps_per_epoch, lr=1e-3, warmup_epochs=1):
    """Make DeiT's optimiser and its schedule, as timm has them."""
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="adamw", lr=lr, weight_decay=0.05)
    warmup = min(warmup_epochs, epochs - 1) * steps_per_epoch
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=epochs * steps_per_epoch - warmup,
        lr_min=1e-5,
        warmup_t=warmup,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    return optimizer, scheduler


def train_one_epoch(epoch, task, loader, optimizer, scheduler, mixup=None, amp=False):
    """Train for one epoch as timm's train.py does; return the loss of every step."""
    task.set_epoch(epoch)  # 4: the fusion ratio follows
    task.train()
    losses = []
    for step, (images, labels) in enumerate(loader, start=epoch * len(loader) + 1):
        images, labels = images.to(task.device), labels.to(task.device)
        if mixup is not None:
            images, labels = mixup(images, labels)
        with torch.autocast(task.device.type, dtype=torch.bfloat16, enabled=amp):
            result = task(images, labels)  # 5
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        task.update_ema(step=step)
        scheduler.step_update(num_updates=step)
        losses.append(result["loss"].item())
    return losses


def save(path, epoch, task, optimizer):
    """Write what timm's CheckpointSaver writes."""
    state = {"epoch": epoch, "version": 2, "optimizer": optimizer.state_dict(), **task.get_checkpoint_state()}
    torch.save(state, path)


def main(arguments=None):
    """Train, and return the loss of every step."""
    ranks = init_distributed_device_so("cuda" if torch.cuda.is_available() else "cpu")
    losses = train(parse(arguments), ranks)
    if ranks["distributed"]:
        leave()
    return losses


def leave():
    """End the group, once DDP is gone: freed after it, DDP may wait for ever (pytorch/issues/56297)."""
    gc.collect()
    torch.distributed.destroy_process_group()


def train(options, ranks):
    """Train on one rank of several, or alone."""
    device, distributed = torch.device(ranks["device"]), ranks["distributed"]
    torch.manual_seed(0)

    classes = options.num_classes
    model = timm.create_model(options.model, img_size=options.image_size, num_classes=classes).to(device)
    # A name gets timm's weights. The small teacher of the defaults is untrained: it shows how, not how well.
    teacher = options.teacher or Teacher.from_timm(
        timm.create_model("test_byobnet", num_classes=classes), image_size=options.image_size
    )
    config = resolve_data_config({}, model=model)
    if options.data is None:
        dataset = FakeData(size=160, image_size=config["input_size"], num_classes=classes)
    else:
        dataset = create_dataset("", root=options.data, split="train", is_training=True)
    loader = create_loader(
        dataset,
        input_size=config["input_size"],
        batch_size=options.batch_size,
        is_training=True,
        mean=config["mean"],
        std=config["std"],
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        num_workers=options.workers,
        distributed=distributed,
        use_prefetcher=False,
        persistent_workers=False,
        device=device,
    )
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)

    task = build_task(model, teacher, options.epochs, mean=config["mean"], std=config["std"])
    optimizer, scheduler = build_optimizer(task, options.epochs, len(loader))
    start = 0
    if options.checkpoint.exists():
        start = resume_task_checkpoint(task, options.checkpoint, optimizer)
        scheduler.step_update(start * len(loader))
    if options.compile:
        task.compile(backend=options.compile)
    if distributed:
        task.prepare_distributed(device_ids=[device] if device.type == "cuda" else None)
    losses = []
    for epoch in range(start, options.epochs):
        if distributed:
            loader.sampler.set_epoch(epoch)
        losses += train_one_epoch(epoch, task, loader, optimizer, scheduler, mixup, options.amp)
        if ranks["global_rank"] == 0:
            print(f"epoch {epoch}: fusion ratio {task.ratio:.2f}, loss {losses[-1]:.3f}", flush=True)
            save(options.checkpoint, epoch, task, optimizer)
    return losses


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="image folder with train/CLASS/FILE (default: generated images)")
    parser.add_argument("--model", default="deit_tiny_distilled_patch16_224")
    parser.add_argument("--teacher", help="timm name of a pretrained CNN (default: a small untrained one)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--num-classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16, help="of each rank")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--compile", default="", help="backend of torch.compile, such as inductor")
    parser.add_argument("--checkpoint", type=Path, default=Path("timm_loop.pth.tar"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
