from .card import write_card
from .layout import lay_out_repository
from .push import push_adapter

__all__ = ["lay_out_repository", "push_adapter", "write_card"]
