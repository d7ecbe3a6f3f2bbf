from .card import write_card
from .push import lay_out_repository, push_adapter

__all__ = ["lay_out_repository", "push_adapter", "write_card"]
