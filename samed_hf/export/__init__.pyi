from .agreement import Agreement, compare_models
from .browser import export_page
from .run import export_adapter

__all__ = ["Agreement", "compare_models", "export_adapter", "export_page"]
