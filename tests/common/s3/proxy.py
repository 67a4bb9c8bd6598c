"""A proxy on loopback that hurts chosen requests on their way to a real S3-speaking server."""

from __future__ import annotations

import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Fault:
    """What happens to one request: `drop` (closed without an answer), `reset` (RST), `delay` (seconds), `status`,
    `cut` (the body breaks off after so many bytes), `short` (a whole-looking body of so many bytes), `unconditional`
    (If-Match is left out, as if the store did not know it)."""

    kind: str
    amount: float = 0


@dataclass
class Request:
    """One request as the proxy saw it."""

    method: str
    path: str
    range: str | None
    body_bytes: int
    fault: Fault | None = None


@dataclass
class Plan:
    """Which requests are hurt: `faults` are used up in order by requests that `when` picks."""

    faults: list[Fault] = field(default_factory=list)
    when: Callable[[Request], bool] = lambda request: True


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to `upstream` (http://host:port) what no fault hits; keeps a list of all requests."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.plan, self.requests, self.lock = Plan(), list[Request](), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def hurt(self, *faults: Fault, when: Callable[[Request], bool] = lambda request: True) -> None:
        """Apply these faults, one each, to the next requests that `when` picks; forget all requests so far."""
        self.plan, self.requests = Plan(list(faults), when), []

    def ranges(self) -> list[str]:
        """Ranges asked for by GET, in order."""
        return [request.range for request in self.requests if request.method == "GET" and request.range]

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, self.headers.get("Range"), len(body))
        with self.server.lock:
            plan = self.server.plan
            if plan.faults and plan.when(request):
                request.fault = plan.faults.pop(0)
            self.server.requests.append(request)
        kind, amount = (request.fault.kind, request.fault.amount) if request.fault else ("", 0)
        if kind in ("drop", "reset"):
            self._hang_up(kind == "reset")
            return
        if kind == "delay":
            time.sleep(amount)
        if kind == "status":
            code = {403: "AccessDenied", 429: "SlowDown", 503: "SlowDown"}.get(int(amount), "InternalError")
            said = f"<Error><Code>{code}</Code><Message>hurt</Message></Error>".encode()
            self._answer(int(amount), [("Content-Type", "application/xml")], said, len(said))
            return
        if kind == "unconditional":
            del self.headers["If-Match"]
        status, headers, data = self._ask(body)
        if kind == "short":
            data = data[: int(amount)]
        whole = len(data)
        if kind == "cut":
            data = data[: int(amount)]
        length = next((int(v) for k, v in headers if k.lower() == "content-length" and self.command == "HEAD"), whole)
        self._answer(status, [(k, v) for k, v in headers if k.lower() not in HOP_BY_HOP], data, length)
        if kind == "cut":
            self._hang_up(False)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP - {"content-length"}}
        upstream.request(self.command, self.path, body, kept)  # the Host header is signed and stays as it is
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        return answer.status, answer.getheaders(), data

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR) if not reset else self.connection.close()

    def log_message(self, *args) -> None:
        pass
