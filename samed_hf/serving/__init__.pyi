from . import jobs, transfer
from .app import ServerSettings, create_app
from .engine import BusyError, Engine, WorkerDiedError
from .handler import EndpointHandler
from .jobs import Correction, Reply, Request, WorkerSettings
from .options import add_arguments, open_socket, server_settings
from .transfer import Answer, PackedScan, pack

__all__ = [
    "Answer",
    "BusyError",
    "Correction",
    "EndpointHandler",
    "Engine",
    "PackedScan",
    "Reply",
    "Request",
    "ServerSettings",
    "WorkerDiedError",
    "WorkerSettings",
    "add_arguments",
    "create_app",
    "jobs",
    "open_socket",
    "pack",
    "server_settings",
    "transfer",
]
