"""Export a student as one ONNX file."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cskd_bench.errors import UserError
from cskd_bench.export.architecture import verify
from cskd_bench.files import write_file
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.models.weights import Weights


def export_onnx(checkpoint: Path, output: Path, weights: Weights = "raw", *, model: str = "") -> str:
    """Write an ONNX file: views (B, 3, S, S) in [0, 1] to logits (B, K) by the student's inference rule.

    `model` is the timm name of a weights file's architecture. ONNX Runtime must give the native logits before the
    file is kept. UserError for a missing package or a file that is there already.
    """
    loaded = load_checkpoint(checkpoint, model=model, weights=weights)
    if output.exists():
        raise UserError(f"{output}: exists already; name a new file")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX export needs the extra `onnx`: pip install 'cskd-bench[onnx]'") from error
    file: Any = io.BytesIO()  # the exporter takes any file object; its annotation says paths only
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            _Predict(loaded).eval(),
            (torch.zeros(1, 3, loaded.image_size, loaded.image_size),),
            file,
            input_names=["views"],
            output_names=["logits"],
            dynamo=False,
            dynamic_axes={"views": {0: "batch"}, "logits": {0: "batch"}},
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    verify(loaded, lambda views: torch.from_numpy(session.run(None, {"views": views.numpy()})[0]))
    write_file(output, file.getvalue())
    return f"{output}: input `views` in [0, 1], {loaded.image_size} px; output `logits`"


class _Predict(torch.nn.Module):
    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.student = loaded.student

    def forward(self, views: Tensor) -> Tensor:
        return self.student.predict(views)
