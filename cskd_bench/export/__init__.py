"""Take a student elsewhere: a folder for timm, a repository of the Hugging Face Hub, an ONNX file."""

from cskd_bench.export.folder import export_timm
from cskd_bench.export.onnx_file import export_onnx

__all__ = ["export_onnx", "export_timm"]
