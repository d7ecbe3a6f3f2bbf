"""Publishing an adapter on the Hugging Face Hub: upload, repository layout, model card."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
