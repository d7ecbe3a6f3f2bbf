"""MONAI Label's REST API, as 3D Slicer's module, OHIF's extension and `monailabel.client` use it."""

from .datastore import router as datastore_router
from .infer import router as models_router

__all__ = ["datastore_router", "models_router"]
