"""A folder over http on loopback, and a record of what was asked; some files can be hidden."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FileServer:
    """Serves the files of `folder` by name, wherever below it they lie."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self, directory=str(folder)))
        self.host = f"127.0.0.1:{self._http.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".m3u8": "application/vnd.apple.mpegurl"}  # noqa: RUF012

    def __init__(self, server: FileServer, *args: Any, **more: Any) -> None:
        self.told = server
        super().__init__(*args, **more)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.told.asked.append(f"{self.command} {self.path}")

    def log_message(self, format: str, *args: Any) -> None:
        pass
