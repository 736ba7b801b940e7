"""A downstream task of one's own, in twenty lines of TOML, run on a checkpoint.

python examples/own_task.py [--checkpoint RUN] [--checkpoint FILE --model TIMM_NAME]
"""

import argparse
import tempfile
from pathlib import Path

import timm
from safetensors.torch import save_file

from cskd_bench import run_task

TASK = """
version = 1
description = "digits at 32 px, by the nearest neighbours' vote"
protocols = ["knn"]
image_size = 32

[data]
dataset = "sklearn/digits"  # for images of your own: dataset = "folder", root = "FOLDER"
num_classes = 10
eval_crop = 1.0
source = "inside scikit-learn (UCI ML hand-written digits)"
licence = "CC BY 4.0"

[knn]
k = 5
"""


def main(arguments=None):
    """Run the task, and return its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="run folder, or weights file (default: an untrained DeiT-Ti)")
    parser.add_argument("--model", default="", help="timm name of a weights file's model")
    parser.add_argument("--results", default="results_of_own_task", help="folder of records")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, model = options.checkpoint, options.model
        if checkpoint is None:
            checkpoint, model = Path(folder, "untrained.safetensors"), "deit_tiny_patch16_224"
            save_file(timm.create_model(model).state_dict(), checkpoint)
        task = Path(folder, "own_digits.toml")
        task.write_text(TASK)
        record = run_task(task, checkpoint, model=model, results=options.results, work=folder, workers=0)
    print(f"{record.task.name} {record.protocol}: {100 * record.value:.1f} % of {record.examples} images")
    print(f"{options.results}/records/{record.id}.json")
    return record


if __name__ == "__main__":
    main()
