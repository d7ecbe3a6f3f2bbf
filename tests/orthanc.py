"""Orthanc with its DICOMweb plugin, started on a free port."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

_PLUGINS = [Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), Path("/usr/lib/orthanc/libOrthancDicomWeb.so")]


class Orthanc:
    """An archive in a directory; it can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("Orthanc")
        plugin = next((path for path in _PLUGINS if path.exists()), None)
        if program is None or plugin is None:
            pytest.skip("Orthanc or its DICOMweb plugin is not installed (Debian: orthanc, orthanc-dicomweb)")
        self.program, self.directory = program, directory
        with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as dicom:
            self.port, ports = http.getsockname()[1], {"DicomPort": dicom.getsockname()[1]}
        settings = {
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(directory / "storage"),
            "IndexDirectory": str(directory / "storage"),
            "Plugins": [str(plugin)],
            "DicomWeb": {"Enable": True},
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "orthanc.json").write_text(json.dumps(settings | ports))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the DICOMweb service."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.directory / "log.txt").open("ab") as log:
            command = [self.program, str(self.directory / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(300):
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/system").raise_for_status()
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError((self.directory / "log.txt").read_text())

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def upload(self, files: list[Path]) -> None:
        """Store files by Orthanc's own interface."""
        for file in files:
            httpx.post(f"http://127.0.0.1:{self.port}/instances", content=file.read_bytes()).raise_for_status()

    def remove(self, uids: set[str]) -> None:
        """Delete objects by their SOPInstanceUID."""
        for uid in uids:
            query = {"Level": "Instance", "Query": {"SOPInstanceUID": uid}}
            for one in httpx.post(f"http://127.0.0.1:{self.port}/tools/find", json=query).json():
                httpx.delete(f"http://127.0.0.1:{self.port}/instances/{one}").raise_for_status()

    def instances(self, modality: str) -> dict[str, bytes]:
        """The stored objects of a modality by their SOPInstanceUID."""
        query = {"Level": "Instance", "Query": {"Modality": modality}, "Expand": True}
        found = httpx.post(f"http://127.0.0.1:{self.port}/tools/find", json=query).raise_for_status().json()
        return {
            one["MainDicomTags"]["SOPInstanceUID"]: httpx.get(
                f"http://127.0.0.1:{self.port}/instances/{one['ID']}/file"
            ).content
            for one in found
        }
