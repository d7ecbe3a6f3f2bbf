from .agreement import Agreement, compare_models
from .browser import export_page
from .onnx import PRECISIONS, export_onnx
from .run import export_adapter

__all__ = ["PRECISIONS", "Agreement", "compare_models", "export_adapter", "export_onnx", "export_page"]
