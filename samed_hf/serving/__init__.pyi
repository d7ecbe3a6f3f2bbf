from .handler import EndpointHandler

__all__ = ["EndpointHandler"]
