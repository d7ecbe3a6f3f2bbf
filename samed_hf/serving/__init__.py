"""Serving adapters: the handler of Inference Endpoints, and the server of `samed-hf serve`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
