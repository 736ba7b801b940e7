"""Cases for mmcv's operators, and what an implementation makes of them; goldens were made by mmcv's compiled ones.

Written by `python tests/helpers/mmcv_operators.py` where mmcv is installed with its compiled operators (mmcv 2.1.0 on a
CPU). mmcv has no focal loss for the CPU, so there is none here.
"""

from pathlib import Path

import numpy as np
import torch

GOLDENS = Path(__file__).parents[1] / "detection" / "golden_mmcv" / "operators.npz"
SIZES = {"aligned_height": 3, "aligned_width": 4, "pool_mode": 1}


def nms_cases():
    """Yield a name, boxes (n, 4), scores (n,), a threshold and an offset; some scores are equal, some boxes too."""
    rng = np.random.RandomState(0)
    for offset in (0, 1):
        for threshold in (0.3, 0.5, 0.7):
            corners = rng.uniform(-20, 60, (40, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (40, 2))], 1).round(2)
            scores = rng.uniform(0, 1, 40).round(3)
            yield f"nms_offset{offset}_{threshold}", boxes, scores, threshold, offset
        corners = np.repeat(rng.uniform(0, 400, (8, 2)), 3, axis=0).round(1)  # thrice the same box, far from the others
        boxes = np.concatenate([corners, corners + 9], 1)
        small = rng.randint(0, 8, (30, 2))  # a pixel more or less decides
        small = np.concatenate([small, small + rng.randint(1, 5, (30, 2))], 1).astype(float)
        yield f"nms_offset{offset}_small", small, rng.permutation(30) / 30, 0.45, offset
        yield f"nms_offset{offset}_ties", boxes, np.repeat(rng.permutation(8) / 8, 3), 0.5, offset


def roi_cases():
    """Yield a name, maps (2, 3, 11, 13), boxes (n, 5), and what RoIAlign is asked; some boxes reach out of the map."""
    rng = np.random.RandomState(1)
    maps = rng.normal(size=(2, 3, 11, 13)).round(4)
    inside = [[0, 3.5, 2.25, 30.0, 21.0], [1, 10.0, 8.0, 10.5, 8.5], [0, 0.0, 0.0, 52.0, 44.0]]
    outside = [[1, -30.0, -9.0, 20.0, 30.0], [0, 40.0, 30.0, 90.0, 80.0], [1, 300.0, 300.0, 310.0, 320.0]]
    rois = np.array([*inside, *outside])
    for aligned in (True, False):
        for sampling_ratio in (0, 2):
            asked = {**SIZES, "spatial_scale": 0.25, "sampling_ratio": sampling_ratio, "aligned": aligned}
            yield f"roi_aligned{int(aligned)}_samples{sampling_ratio}", maps, rois, asked


def compute(operators, dtype=torch.float32):
    """Return what an implementation of `mmcv._ext` makes of each case: kept boxes, pooled maps, their gradients."""
    found = {}
    for name, boxes, scores, threshold, offset in nms_cases():
        given = torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32)
        kept = operators.nms(*given, iou_threshold=threshold, offset=offset)
        assert (given[1][kept].diff() <= 0).all()  # best first
        rows = torch.cat([-given[1][kept, None], given[0][kept]], 1).tolist()
        found[name] = np.array(sorted(rows), np.float32)  # mmcv takes those of one score in any order
    for name, maps, rois, asked in roi_cases():
        features, boxes = torch.tensor(maps, dtype=dtype), torch.tensor(rois, dtype=torch.float32)
        pooled, gradient = torch.zeros(len(rois), 3, 3, 4, dtype=dtype), torch.zeros_like(features)
        unused = [torch.zeros(0, dtype=dtype)] * 2
        operators.roi_align_forward(features, boxes, pooled, *unused, **asked)
        weights = torch.linspace(-1, 1, pooled.numel()).reshape(pooled.shape).to(dtype)
        operators.roi_align_backward(weights, boxes, *unused, gradient, **asked)
        found |= {f"{name}_pooled": pooled.float().numpy(), f"{name}_gradient": gradient.float().numpy()}
    return found


if __name__ == "__main__":
    import mmcv._ext

    np.savez_compressed(GOLDENS, **compute(mmcv._ext))
