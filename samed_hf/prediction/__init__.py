"""Files in, label files out: many cases, one after the other, with statistics and a report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
