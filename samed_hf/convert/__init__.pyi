from .sam import convert_sam
from .samed import convert_original, convert_samed

__all__ = ["convert_original", "convert_sam", "convert_samed"]
