from .card import write_card
from .push import push_adapter
from .repository import lay_out_repository

__all__ = ["lay_out_repository", "push_adapter", "write_card"]
