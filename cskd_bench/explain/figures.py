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

from cskd_bench.explain.labels import LabelMap, LabelMaps

COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7b4ea3")
OTHERS: Final = "#9a9a9a"
MEANING: Final = {1.0: "start: local", 0.5: "half-way", 0.0: "end: global"}
MOST_HEADS: Final = 12  # columns of the attention picture
DPI: Final = 100

Pixels = NDArray[np.float32]  # (S, S, 3) in [0, 1]


def draw_labels(pixels: Pixels, maps: LabelMaps, names: Sequence[str], title: str, path: Path) -> None:
    """Draw the image, both label maps and the fused labels along CKF: a colour per class, stronger where surer."""
    above = [(f"student: {_size(maps.student)} patches", maps.student)]
    if maps.teacher is not None:
        above.insert(0, (f"teacher: {_size(maps.teacher)} places", maps.teacher))
    below = [(f"fused, r = {ratio:g} ({MEANING[ratio]})", fused) for ratio, fused in maps.fused]
    colours = _colours([place.labels for _, place in (*above, *below)])
    figure = Figure(figsize=(9, 7.5 if below else 5.6), layout="constrained")
    axes = figure.subplots(2 if below else 1, len(above) + 1, squeeze=False)
    _image_panel(axes[0][0], pixels, "the view")
    for axis, (name, place) in zip(axes[0][1:], above, strict=True):
        _label_panel(axis, pixels, place, colours, name)
    for axis, (name, place) in zip(axes[-1] if below else (), below, strict=True):
        _label_panel(axis, pixels, place, colours, name)
    _title(figure, title)
    handles = [Patch(color=colour, label=names[index]) for index, colour in colours.items() if colour != OTHERS]
    if OTHERS in colours.values():
        handles.append(Patch(color=OTHERS, label="other classes"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=12,
        title="stronger colour: surer",
    )
    _save(figure, path)


def _size(place: LabelMap) -> str:
    rows, columns = place.labels.shape
    return f"{rows} x {columns}"


def _colours(maps: Sequence[Tensor]) -> dict[int, str]:
    """Give the classes that occur most a colour each, the rest one grey."""
    found, counts = np.unique(np.concatenate([labels.flatten().numpy() for labels in maps]), return_counts=True)
    ranked = [int(index) for index in found[np.argsort(-counts, kind="stable")]]
    return {index: COLOURS[rank] if rank < len(COLOURS) else OTHERS for rank, index in enumerate(ranked)}


def _label_panel(axis: Any, pixels: Pixels, place: LabelMap, colours: dict[int, str], name: str) -> None:
    """Draw one map: the class gives the colour, its probability the opacity (0.15 to 0.85)."""
    colour = np.array([[to_rgb(colours[int(index)]) for index in row] for row in place.labels])
    opacity = 0.15 + 0.7 * place.probability.numpy()
    _overlay(axis, pixels, np.dstack([colour, opacity]), name)
    size, (rows, columns) = pixels.shape[0], place.labels.shape
    for line in range(1, rows):
        axis.axhline(line * size / rows, color="white", linewidth=0.6, alpha=0.7)
    for line in range(1, columns):
        axis.axvline(line * size / columns, color="white", linewidth=0.6, alpha=0.7)


def _image_panel(axis: Any, pixels: Pixels, name: str) -> None:
    axis.imshow(pixels, interpolation="nearest")  # files a third the size of smoothed ones
    axis.set_title(name, fontsize=11.5)
    axis.set_xticks([])
    axis.set_yticks([])


def _overlay(axis: Any, pixels: Pixels, veil: NDArray[Any], name: str) -> None:
    """Draw the image in light grey and over it a veil (h, w, 4) of colours with opacity."""
    size = pixels.shape[0]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    _image_panel(axis, grey, name)
    axis.imshow(veil, interpolation="nearest", extent=(-0.5, size - 0.5, size - 0.5, -0.5))


def draw_attention(
    pixels: Pixels, weights: Tensor, tokens: Sequence[tuple[str, int]], grid: tuple[int, int], title: str, path: Path
) -> None:
    """Draw where each token looks, one row per token and one column per head; weights (1, H, T, T).

    Opacity grows with the square root of the attention, so that weak attention can be seen beside strong.
    """
    prefix = weights.shape[-1] - grid[0] * grid[1]
    shown = min(weights.shape[1], MOST_HEADS)
    figure = Figure(figsize=(max(6.0, 2.4 * (shown + 1)), 2.6 * len(tokens) + 0.9), layout="constrained")
    axes = figure.subplots(len(tokens), shown + 1, squeeze=False)
    for row, (name, index) in zip(axes, tokens, strict=True):
        _image_panel(row[0], pixels, "the view")
        row[0].set_ylabel(name, fontsize=12)
        for head, axis in enumerate(row[1:]):
            looks = weights[0, head, index, prefix:].reshape(grid).numpy()
            opacity = 0.9 * np.sqrt(looks / looks.max())
            veil = np.dstack([np.broadcast_to(np.array(to_rgb(COLOURS[5])), (*grid, 3)), opacity])
            _overlay(axis, pixels, veil, f"head {head + 1}: strongest {100 * looks.max():.0f} %")
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
