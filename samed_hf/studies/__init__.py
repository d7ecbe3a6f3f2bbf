"""Studies of several runs: cross-validation, comparisons, and what a paper reports of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
