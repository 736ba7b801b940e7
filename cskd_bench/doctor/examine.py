"""One visit: the environment, then the data set or the configuration that was named."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cskd_bench.cells.pretraining_splits import check_pretraining_splits, note_shared
from cskd_bench.config import DataConfig, PretrainConfig, load_config
from cskd_bench.data.manifests import Manifest, manifest_for_folder, manifests
from cskd_bench.data.notes import join_notes
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import data_path
from cskd_bench.detection.splits import COCO, is_coco
from cskd_bench.doctor.data import check_data, describe, published_layout
from cskd_bench.doctor.environment import LOW_DISK, environment
from cskd_bench.doctor.findings import Finding, Section
from cskd_bench.doctor.task import check_task
from cskd_bench.errors import UserError
from cskd_bench.names import real_path
from cskd_bench.schema import override
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.placing import place_tasks


def look(
    *,
    config: Path | None,
    overrides: list[str],
    method: str,
    dataset: str,
    data_dir: str,
    runs: Path,
    decode: bool,
    threads: int,
    task: TaskSpec | None = None,
    download: bool = False,
) -> Iterator[Section]:
    """Look at everything that was asked for, one part after the other; `download` is for a task.

    Raises UserError for a data set without a manifest by that name, for a faulty configuration, and for a task
    beside another data set.
    """
    _refuse_two(task, config, dataset, download)
    manifest = _manifest(dataset)
    if overrides and config is None and task is None:
        raise UserError("--set changes a task or a configuration; name one with --task or --config")
    placed = [override("data.root", real_path(data_dir).as_posix())] if data_dir else []
    settings = load_config(config, [*overrides, *placed], method) if config else None
    yield "Environment", environment(runs, _disk_needed(settings))
    if settings is not None:
        yield f"Configuration {settings.name}", _check_config(settings)
        splits = tuple(dict.fromkeys(f"{settings.data.train}+{settings.data.val}".split("+")))
        known = manifest or manifest_for_folder(settings.data.root)
        found = check_data(settings.data, splits, known, decode=decode, threads=threads)
        yield f"Data {settings.data_name}", chain(found, _check_together(settings.data))
    elif task is not None:
        yield f"Data of task {task.name}", _check_placed(task, data_dir, download, decode, threads)
    elif dataset or data_dir:
        yield f"Data {dataset or data_dir}", _check_folder(dataset, data_dir, manifest, decode, threads)


def _check_together(data: DataConfig) -> Iterator[Finding]:
    """Compare the splits of a pretraining as the pretraining does; what one of them lacks alone is told elsewhere."""
    try:
        train, val = (open_source(data, split) for split in (data.train, data.val))
    except UserError:
        return
    try:
        note = join_notes(check_pretraining_splits(data, train, val), note_shared(train, val))
    except UserError as error:
        yield Finding("attention", "labels", str(error))
        return
    if note:
        yield Finding("note", "labels", note)


def _check_placed(task: TaskSpec, data_dir: str, download: bool, decode: bool, threads: int) -> Iterator[Finding]:
    (placed,) = place_tasks([task], data_dir, fetch=download, change=download)
    yield from check_task(placed, decode=decode, threads=threads)


def _refuse_two(task: TaskSpec | None, config: Path | None, dataset: str, download: bool) -> None:
    if task is not None and (config or dataset):
        raise UserError(
            f"--task {task.name} and --{'config' if config else 'dataset'}: one at a time, a visit for each"
        )
    if download and task is None:
        raise UserError("--download: name the task whose data are wanted with --task")


def _manifest(dataset: str) -> Manifest | None:
    if dataset and dataset not in manifests():
        raise UserError(f"--dataset {dataset}: no manifest of that name; there are {', '.join(sorted(manifests()))}")
    return manifests()[dataset] if dataset else None


def _disk_needed(settings: PretrainConfig | None) -> int:
    """Return what the run folder will hold; where that cannot be sized up, a modest amount."""
    if settings is None:
        return LOW_DISK
    from cskd_bench.engine.estimate import estimate

    try:
        return max(LOW_DISK, estimate(settings).disk_bytes)
    except UserError:
        return LOW_DISK  # what is wrong with the data is told below


def _check_config(settings: PretrainConfig) -> Iterator[Finding]:
    yield Finding("ok", "settings", "valid")
    from cskd_bench.device import default_device
    from cskd_bench.doctor.machine import shared_memory
    from cskd_bench.half_speed import slow_precision

    yield from shared_memory(settings)
    if slow := slow_precision(default_device(), settings.recipe.precision):
        yield Finding("note", "precision", slow, "add --set recipe.precision=fp32, which is another recipe")
    if not settings.method.needs_teacher:
        return
    teacher = settings.teacher
    if teacher.weights:
        from cskd_bench.models.teachers import teacher_weights

        path = teacher_weights(teacher)
        if path.is_file():
            yield Finding("ok", "teacher", f"{teacher.name}, weights found")
        else:
            yield Finding("attention", "teacher", f"{path}: no such weights file", "set teacher.weights to a file")
        return
    from cskd_bench.models.timm_names import check_name

    try:
        check_name(teacher.name, "teacher.name")
        yield Finding("note", "teacher", f"{teacher.name}: timm downloads its weights at the first run")
    except UserError as error:
        yield Finding("attention", "teacher", str(error))


def _check_folder(
    dataset: str, data_dir: str, manifest: Manifest | None, decode: bool, threads: int
) -> Iterator[Finding]:
    root = real_path(data_dir) if data_dir else data_path(dataset)
    layout = published_layout(root, dataset) or describe(root, manifest)
    if isinstance(layout, Finding):
        yield layout
        return
    yield Finding("ok", "layout", _LAYOUTS.get(layout.dataset, "as its authors pack it"))
    known = manifest or manifest_for_folder(layout.root)
    yield from check_data(layout, _splits(layout, known), known, decode=decode, threads=threads)


_LAYOUTS = {"folder": "one folder per class in each split", "npz": "one .npz per split", COCO: "COCO's format"}


def _splits(layout: DataConfig, manifest: Manifest | None) -> tuple[str, ...]:
    """Return the splits to look at: the manifest's, else those that were found."""
    if is_coco(layout):
        return ()
    if manifest is not None:
        return tuple(manifest.splits)
    return tuple(split for split in (layout.train, layout.val) if split)
