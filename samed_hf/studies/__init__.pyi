from .checklist import write_checklist
from .cross_validation import cross_validate

__all__ = ["cross_validate", "write_checklist"]
