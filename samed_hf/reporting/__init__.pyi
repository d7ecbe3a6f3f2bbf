from .charts import label_colors

__all__ = ["label_colors"]
