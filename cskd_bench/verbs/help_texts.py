"""What `--help` says below the options: exit codes, environment variables and examples of every verb."""

import argparse
from collections.abc import Mapping
from typing import Final

EXIT_CODES: Final = """\
exit codes:
  0    done
  1    some tasks were not ready, or a check failed
  2    bad input
  75   stopped: what was done is kept, and the same command continues
  130  stopped before anything was kept"""

VARIABLES: Final[Mapping[str, str]] = {
    "CSKD_BENCH_DATA": "the folder that holds all data sets (default: ./data)",
    "CSKD_BENCH_DEVICE": "cpu, cuda or cuda:N (default: a GPU where there is one)",
    "CSKD_BENCH_INDEX": "off: search data folders each time, and keep no index of them",
    "CC": "the C compiler that torch.compile needs on a GPU",
    "CUDA_VISIBLE_DEVICES": "the GPUs that may be used",
    "CXX": "the C++ compiler that torch.compile and detection need",
    "HF_HUB_OFFLINE": "1: take weights from the cache alone, download none",
    "HTTPS_PROXY": "the proxy for downloads",
    "OMP_NUM_THREADS": "CPU threads of a process (default: all cores)",
    "RAY_ADDRESS": "the Ray cluster that --ray-address auto means",
    "XDG_CACHE_HOME": "where an index goes that its data's folder cannot hold (default: ~/.cache)",
}

_DATA: Final = ("CSKD_BENCH_DATA", "CSKD_BENCH_INDEX", "XDG_CACHE_HOME")
_WORK: Final = (*_DATA, "CSKD_BENCH_DEVICE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_FETCH: Final = ("HF_HUB_OFFLINE", "HTTPS_PROXY")

VARIABLES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "quickstart": ("CSKD_BENCH_DEVICE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
    "pretrain": (*_WORK, *_FETCH),
    "bank": (*_WORK, *_FETCH),
    "advise": _DATA,
    "transfer": (*_WORK, *_FETCH),
    "bench": (*_WORK, *_FETCH, "RAY_ADDRESS"),
    "report": (),
    "records": _WORK,
    "export": _FETCH,
    "explain": ("OMP_NUM_THREADS", *_FETCH),
    "doctor": (*_DATA, "CSKD_BENCH_DEVICE", "CUDA_VISIBLE_DEVICES", "CXX", "HTTPS_PROXY"),
    "speed": _WORK,
    "tasks": (*_DATA, "HTTPS_PROXY"),
    "methods": (),
    "configs": (),
}

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "": (
        "cskd-bench quickstart",
        "cskd-bench doctor --task cifar100",
        "cskd-bench transfer --task cifar100 --protocol linear --checkpoint runs/deit_tiny_cskd",
    ),
    "quickstart": ("cskd-bench quickstart --no-detection", "cskd-bench quickstart --output first --parallel 2"),
    "pretrain": (
        "cskd-bench pretrain configs/deit_tiny.toml --method cskd --dry-run",
        "cskd-bench pretrain configs/imagenette64/15ep.toml --method cskd --set teacher.weights= --set seed=1",
        "torchrun --nproc-per-node 8 -m cskd_bench.cli pretrain configs/deit_tiny.toml --method cskd",
    ),
    "bank": (
        "cskd-bench bank build configs/deit_tiny.toml --method cskd --output banks/regnet --epochs 0:10",
        "cskd-bench bank verify banks/regnet",
        "cskd-bench bank agreement banks/regnet configs/deit_tiny.toml --method cskd",
    ),
    "advise": (
        "cskd-bench advise configs/imagenette64/quarter_100ep.toml",
        "cskd-bench advise configs/imagenette64/quarter_100ep.toml --bank banks/look --json",
    ),
    "transfer": (
        "cskd-bench transfer --task cifar100,flowers102 --protocol linear,knn --seed 0,1,2 --checkpoint RUN",
        "cskd-bench transfer --task cifar100 --protocol linear --model deit_tiny_patch16_224 --pretrained --limit 500",
        "cskd-bench transfer --task robustness --checkpoint RUN --data-dir DATA --json > scores.json",
    ),
    "bench": (
        "cskd-bench bench benchmarks/quickstart.toml --dry-run",
        "cskd-bench bench benchmarks/quickstart.toml --parallel 4 --threads 2",
        "cskd-bench bench plan.toml --methods cskd,deit --seeds 0 --first '*finetune*'",
        "cskd-bench bench status --runs runs",
        "cskd-bench bench plan.toml --executor slurm --slurm slurm_partition=gpu --gpus 1",
    ),
    "report": ("cskd-bench report --results mine", "cskd-bench report --results results --check"),
    "records": (
        "cskd-bench records verify --results mine",
        "cskd-bench records rerun flowers102-linear --results mine --output again",
    ),
    "export": (
        "cskd-bench export --checkpoint RUN --to timm --output my_student",
        "cskd-bench export --checkpoint RUN --weights ema --to onnx --output student.onnx",
        "cskd-bench export --checkpoint RUN --to hub --repo USER/NAME --private",
    ),
    "explain": (
        "cskd-bench explain --checkpoint RUN --image cat.jpg --output pictures",
        "cskd-bench explain --checkpoint w.safetensors --model deit_tiny_patch16_224 --image cat.jpg",
    ),
    "doctor": (
        "cskd-bench doctor",
        "cskd-bench doctor --task cifar100 --download",
        "cskd-bench doctor --config configs/deit_tiny.toml --method cskd --threads 16 --json",
    ),
    "speed": (
        "cskd-bench speed --part step --batch 8 --output step.json",
        "cskd-bench speed --part step --methods all --output methods.json",
        "cskd-bench speed --part data --images photographs",
        "cskd-bench speed --part coco --clock cpu --output coco.json",
    ),
    "tasks": (
        "cskd-bench tasks list --json",
        "cskd-bench tasks show cifar100",
        "cskd-bench tasks validate flowers102 --download",
    ),
    "methods": ("cskd-bench methods list", "cskd-bench methods show cskd"),
    "configs": ("cskd-bench configs", "cskd-bench configs | grep imagenette"),
}


def add_help(parser: argparse.ArgumentParser, verb: str = "") -> None:
    """Put the texts below the options of a verb's help, and of its actions' help; no verb: of the program's own."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = epilog(verb)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                add_help(below, verb or name)


def epilog(verb: str) -> str:
    """Return examples, environment variables and exit codes of a verb; no verb: of the program."""
    named = VARIABLES_OF[verb] if verb else tuple(VARIABLES)
    width = max(map(len, named), default=0)
    variables = [f"  {name:{width}}  {VARIABLES[name]}" for name in named]
    parts = [["examples:", *(f"  {example}" for example in EXAMPLES[verb])]]
    parts += [["environment variables:", *variables]] if variables else []
    return "\n\n".join(["\n".join(part) for part in parts] + [EXIT_CODES])
