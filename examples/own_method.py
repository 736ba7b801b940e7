"""A distillation loss of your own, trained by CSKDTask: CSKD weighted by the teacher's confidence.

python examples/own_method.py [--teacher regnety_160.deit_in1k --num-classes 1000]
"""

import argparse

import timm
import torch
from torch.nn import functional as F

from cskd_bench import CSKDLoss, CSKDTask, Teacher


class ConfidentCSKD(CSKDLoss):
    """CSKD whose spatial loss weights every position by the teacher's confidence there."""

    def __init__(self):
        super().__init__(spatial_loss="soft")  # asks for the fused logits (B, K, h, w) rather than their argmax

    def forward(self, output, targets, labels):
        """Return named parts; `total` is what is trained."""
        parts = super().forward(output, targets, labels)
        confidence, wanted = targets.spatial_target.softmax(dim=1).max(dim=1)  # (B, h, w) each
        by_position = F.cross_entropy(output.patch_logits.float(), wanted, reduction="none")
        spatial = (confidence * by_position).sum() / confidence.sum()
        total = parts["total"] + self.method.spatial_weight * (spatial - parts["spatial"])
        return parts | {"spatial": spatial, "total": total}


def main(arguments=None):
    """Take five steps on generated images, and return their losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="timm name of a pretrained CNN (default: a small untrained one)")
    parser.add_argument("--num-classes", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    classes = options.num_classes
    student = timm.create_model("vit_tiny_patch16_224", reg_tokens=1, img_size=64, depth=4, num_classes=classes)
    teacher = options.teacher or Teacher.from_timm(
        timm.create_model("test_byobnet", num_classes=classes), image_size=64
    )
    task = CSKDTask(student, teacher, ConfidentCSKD(), epochs=5)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(classes, (16,))
    losses = []
    for epoch in range(5):
        task.set_epoch(epoch)
        result = task(images, labels)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss"].item())
        print(f"epoch {epoch}: loss {losses[-1]:.3f}, spatial {result['spatial'].item():.3f}")
    return losses


if __name__ == "__main__":
    main()
