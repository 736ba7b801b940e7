"""Every target of the fuzzer by name: it takes bytes, calls what the product itself calls, and may raise UserError."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fuzz import data_targets, planted, report_targets, settings_targets, weights_targets

from cskd_bench.errors import UserError

Target = Callable[[bytes], None]
CORPUS: Final = Path(__file__).parent / "corpus"

TARGETS: Final[Mapping[str, Target]] = {
    "image": data_targets.fuzz_image,
    "npz": data_targets.fuzz_npz,
    "tar": data_targets.fuzz_tar,
    "annotations": data_targets.fuzz_annotations,
    "coco_list": data_targets.fuzz_coco_list,
    "lists": data_targets.fuzz_lists,
    "config": settings_targets.fuzz_config,
    "task": settings_targets.fuzz_task,
    "plan": settings_targets.fuzz_plan,
    "published": settings_targets.fuzz_published,
    "record": report_targets.fuzz_record,
    "registered": report_targets.fuzz_registered,
    "report": report_targets.fuzz_report,
    "manifest": report_targets.fuzz_manifest,
    "weights": weights_targets.fuzz_weights,
    "run_json": weights_targets.fuzz_run_json,
    "timm_folder": weights_targets.fuzz_timm_folder,
    "resume": weights_targets.fuzz_resume,
    "parts": weights_targets.fuzz_parts,
    "bank": weights_targets.fuzz_bank,
}
PLANTED: Final[Mapping[str, Target]] = {
    "planted": planted.fuzz_planted,
    "hanging": planted.fuzz_hanging,
    "dying": planted.fuzz_dying,
}


def run_target(name: str, data: bytes) -> None:
    """Give bytes to a target; anything that it raises but UserError goes on, and is a fault."""
    try:
        (TARGETS | PLANTED)[name](data)
    except UserError:
        return
