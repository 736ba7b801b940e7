"""The pictures: label maps over the image, attention per head, how far heads look."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from cskd_bench.explain.labels import LabelMaps

COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7b4ea3")
OTHERS: Final = "#9a9a9a"
VEIL: Final = 0.52  # opacity of a label's colour over the image
DPI: Final = 110

Pixels = NDArray[np.float32]  # (S, S, 3) in [0, 1]


def draw_labels(pixels: Pixels, maps: LabelMaps, names: Sequence[str], title: str, path: Path) -> None:
    """Draw the image, both label maps and the fused labels along CKF, one colour per class."""
    panels: list[tuple[str, Tensor | None]] = [("the view", None)]
    if maps.teacher is not None:
        height, width = maps.teacher.shape
        panels.append((f"teacher, {height} x {width} places", maps.teacher))
    height, width = maps.student.shape
    panels.append((f"student, {height} x {width} patches", maps.student))
    below = [(f"fused, r = {ratio:g}{_MEANING[ratio]}", fused) for ratio, fused in maps.fused]
    colours = _colours([labels for _, labels in panels[1:] if labels is not None] + [fused for _, fused in below])
    figure = Figure(figsize=(10, 8.3 if below else 5.2), layout="constrained")
    axes = figure.subplots(2 if below else 1, 3 if below else 2, squeeze=False)
    for axis, (name, labels) in zip(axes[0], panels, strict=True):
        _label_panel(axis, pixels, labels, colours, name)
    for axis, (name, labels) in zip(axes[-1] if below else (), below, strict=True):
        _label_panel(axis, pixels, labels, colours, name)
    _title(figure, title)
    handles = [Patch(color=colour, label=names[index]) for index, colour in colours.items() if colour != OTHERS]
    if OTHERS in colours.values():
        handles.append(Patch(color=OTHERS, label="other classes"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=12)
    _save(figure, path)


_MEANING = {1.0: " (start: local)", 0.5: " (half-way)", 0.0: " (end: global)"}


def _colours(maps: Sequence[Tensor]) -> dict[int, str]:
    """Give the classes that occur most a colour each, the rest one grey."""
    found, counts = np.unique(np.concatenate([labels.flatten().numpy() for labels in maps]), return_counts=True)
    ranked = [int(index) for index in found[np.argsort(-counts, kind="stable")]]
    return {index: COLOURS[rank] if rank < len(COLOURS) else OTHERS for rank, index in enumerate(ranked)}


def _label_panel(axis: Any, pixels: Pixels, labels: Tensor | None, colours: dict[int, str], name: str) -> None:
    size = pixels.shape[0]
    axis.set_title(name, fontsize=12)
    axis.set_xticks([])
    axis.set_yticks([])
    if labels is None:
        axis.imshow(pixels, extent=(0, size, size, 0))
        return
    axis.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=1, extent=(0, size, size, 0))
    veil = np.array([[to_rgb(colours[int(index)]) for index in row] for row in labels])
    axis.imshow(veil, alpha=VEIL, interpolation="nearest", extent=(0, size, size, 0))
    rows, columns = labels.shape
    for line in range(1, rows):
        axis.axhline(line * size / rows, color="white", linewidth=0.6, alpha=0.7)
    for line in range(1, columns):
        axis.axvline(line * size / columns, color="white", linewidth=0.6, alpha=0.7)


def draw_attention(
    pixels: Pixels, weights: Tensor, tokens: Sequence[tuple[str, int]], grid: tuple[int, int], title: str, path: Path
) -> None:
    """Draw where each token looks, one row per token and one column per head; weights (1, H, T, T)."""
    prefix = weights.shape[-1] - grid[0] * grid[1]
    heads, size = weights.shape[1], pixels.shape[0]
    shown = min(heads, 12)
    figure = Figure(figsize=(max(6.0, 2.6 * (shown + 1)), 2.75 * len(tokens) + 1.1), layout="constrained")
    axes = figure.subplots(len(tokens), shown + 1, squeeze=False)
    for row, (name, index) in zip(axes, tokens, strict=True):
        row[0].imshow(pixels)
        row[0].set_ylabel(name, fontsize=12)
        row[0].set_title("the view", fontsize=11)
        for head, axis in enumerate(row[1:]):
            looks = weights[0, head, index, prefix:]
            share = float(looks.sum())
            axis.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=1, extent=(0, size, size, 0))
            field = (looks / looks.max()).reshape(grid).numpy()
            axis.imshow(field, cmap="inferno", alpha=0.68, vmin=0, vmax=1, extent=(0, size, size, 0))
            axis.set_title(f"head {head + 1}: {100 * share:.0f} % on patches", fontsize=11)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    _title(figure, title)
    _save(figure, path)


def draw_distances(distances: Sequence[Tensor], image_size: int, title: str, path: Path) -> None:
    """Draw the mean attention distance of every head (dots) and each block's mean (line), in pixels."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axis = figure.subplots()
    blocks = np.arange(1, len(distances) + 1)
    for block, values in zip(blocks, distances, strict=True):
        axis.scatter([block] * len(values), values.numpy(), color=COLOURS[0], s=48, alpha=0.75, zorder=3)
    axis.plot(blocks, [float(values.mean()) for values in distances], color=COLOURS[5], linewidth=2, zorder=2)
    axis.set_xlabel("block (first to last)", fontsize=12)
    axis.set_ylabel(f"mean attention distance (px of {image_size})", fontsize=12)
    axis.set_xticks(blocks)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLOURS[0], label="one head"),
        Line2D([], [], color=COLOURS[5], linewidth=2, label="mean of the block"),
    ]
    axis.legend(handles=handles, frameon=False, fontsize=11)
    _title(figure, title)
    _save(figure, path)


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(title, fontsize=13.5, fontweight="bold")


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
