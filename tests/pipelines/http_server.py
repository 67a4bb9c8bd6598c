"""A small JSON server on loopback: routes by method and pattern, faults on demand, and a record of what was asked."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


class Refusal(Exception):
    """Answered with `status` and `body`."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


Handler = Callable[..., Any]


class JsonServer:
    """Serves `route`d handlers; each gets the Request and the groups of its pattern, and returns JSON or text."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[tuple[str, int, Any, int]] = []  # path pattern, status, body, how often
        self.token = ""
        self.lock = threading.RLock()
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        server = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                where = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(where.query).items()}
                request = Request(
                    self.command, where.path, query, body, {key.title(): value for key, value in self.headers.items()}
                )
                status, answer = server._answer(request)
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def route(self, method: str, pattern: str, handler: Handler) -> None:
        self._routes.append((method, re.compile(pattern), handler))

    def fail(self, pattern: str, status: int, body: Any = None, times: int = 1) -> None:
        """Answer the next `times` requests to paths that match with an error."""
        self.faults.append((pattern, status, body if body is not None else {"message": "on purpose"}, times))

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak https from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = self.url.replace("http://", "https://")

    def asked(self, method: str, pattern: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and re.search(pattern, r.path)]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, request: Request) -> tuple[int, Any]:
        with self.lock:
            self.requests.append(request)
            for place, (pattern, status, body, times) in enumerate(self.faults):
                if re.search(pattern, request.path) and times > 0:
                    self.faults[place] = (pattern, status, body, times - 1)
                    return status, body
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                return 401, {"error": "Unauthenticated", "code": 16, "message": "no valid token"}
            for method, pattern, handler in self._routes:
                found = pattern.fullmatch(request.path)
                if found and method == request.method:
                    try:
                        return 200, handler(request, *found.groups())
                    except Refusal as refusal:
                        return refusal.status, refusal.body
        return 404, {"error": "Not Found", "code": 5, "message": f"no such path: {request.method} {request.path}"}
