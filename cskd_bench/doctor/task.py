"""Are a task's images here, whole and readable? What is missing, and how to get it."""

from collections.abc import Iterator

from cskd_bench.data.download import can_download
from cskd_bench.data.layouts import own_name
from cskd_bench.data.manifests import manifest_for_folder
from cskd_bench.data.sources import data_path
from cskd_bench.doctor.data import check_data
from cskd_bench.doctor.findings import Finding
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.placing import Placed, splits_read, takes_folder
from cskd_bench.transfer.readiness import look_at_teacher
from cskd_bench.transfer.run import look_at_data


def check_task(placed: Placed, *, decode: bool, threads: int) -> Iterator[Finding]:
    """Look at a task's images where they were found; `decode` reads every one of them, in so many threads."""
    spec = placed.spec
    if placed.done:
        yield Finding("ok", "download", placed.done)
    if placed.problem:
        yield Finding("attention", "data", placed.problem)
        return
    if takes_folder(spec.data):
        root = data_path(spec.data.root)
        if spec.data.root and not spec.data.dataset.startswith("hfds/") and not root.exists():
            yield Finding("attention", "data", f"{root}: no such folder", _how_to_get(spec))
            return
        known = manifest_for_folder(own_name(spec.data))
        sound = True
        for finding in check_data(spec.data, splits_read(spec), known, decode=decode, threads=threads):
            sound &= finding.verdict != "attention"
            yield finding
        if not sound:
            return
    yield from _real_labels(spec)
    try:
        yield Finding("ok", "task", look_at_data(spec))
    except UserError as error:
        yield Finding("attention", "task", str(error))
        return
    yield from _teacher(spec)


def _teacher(spec: TaskSpec) -> Iterator[Finding]:
    """Build the teacher of the task's fine-tuning on its classes, at its size."""
    try:
        named = next(filter(None, (look_at_teacher(spec, protocol) for protocol in spec.protocols)), "")
    except UserError as error:
        yield Finding("attention", "teacher", str(error), "set finetune.teacher in the task")
        return
    if spec.finetune.teacher and named:
        yield Finding("ok", "teacher", f"{named} at {spec.finetune.teacher.image_size} px knows the task's classes")


def _real_labels(spec: TaskSpec) -> Iterator[Finding]:
    if not spec.evaluate.real_labels:
        return
    file = data_path(spec.data.root) / spec.evaluate.real_labels
    if file.is_file():
        yield Finding("ok", "labels", f"{file.name} is there")
    else:
        yield Finding("attention", "labels", f"{file}: no such file", spec.data.by_hand)


def _how_to_get(spec: TaskSpec) -> str:
    """Say how to get a task's data: by a download where torchvision can, by hand, or from where they are."""
    ways = [f"cskd-bench tasks validate {spec.name} --download"] if can_download(spec.data) else []
    ways += [spec.data.by_hand] if spec.data.by_hand else [f"from {spec.data.source}"] if spec.data.source else []
    return "; or ".join([*ways, "name the folder that has them with --data-dir"])
