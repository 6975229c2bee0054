"""A reverse proxy that counts requests, delays them, and breaks them: between the tests and a real server."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "date", "server", "content-length"}
_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'
Request = tuple[str, str]  # method, path with its query


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD path`` matches.

    Attributes
    ----------
    match
        Regular expression.
    kind
        ``500``, ``503``, ``403`` (expired credentials), ``reset`` before an answer, ``late`` (reset after the server
        has done what was asked), ``truncate`` (half of the body), ``hang`` (no answer for ``seconds``).
    times
        How many requests it befalls; None for all.
    """

    match: str
    kind: str
    times: int | None = 1
    seconds: float = 30.0
    seen: int = 0

    def befalls(self, request: str) -> bool:
        if (self.times is not None and self.seen >= self.times) or not re.search(self.match, request):
            return False
        self.seen += 1
        return True


@dataclass
class Proxy:
    """Stands before a server; what happens is changed while it runs."""

    upstream: tuple[str, int]
    delay: float = 0.0
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    hook: Callable[[str], None] | None = None
    peak: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Real S3 decides a conditional put and does it at once; moto looks, then writes, in different threads.
    _writes: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> Proxy:
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.proxy = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[Request]]:
        """Give the list of the requests made within the block."""
        before, found = len(self.requests), []
        yield found
        found += self.requests[before:]

    @contextlib.contextmanager
    def faulty(self, *faults: Fault) -> Iterator[tuple[Fault, ...]]:
        """Let things go wrong within the block."""
        self.faults = list(faults)
        try:
            yield faults
        finally:
            self.faults = []

    def methods(self, requests: list[Request]) -> Counter[str]:
        return Counter(method for method, _ in requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxy: Proxy

    def handle_error(self, *_: Any) -> None:
        pass  # a client that goes away is no news


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # see tests/objects/server.py
    server: _Server
    _upstream: http.client.HTTPConnection | None = None
    _last = 0.0

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        proxy, request = self.server.proxy, f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy._lock:
            proxy.requests.append((self.command, self.path))
            fault = next((f for f in proxy.faults if f.befalls(request)), None)
            proxy._now += 1
            proxy.peak = max(proxy.peak, proxy._now)
        try:
            if proxy.hook is not None:
                proxy.hook(request)
            if proxy.delay:
                time.sleep(proxy.delay)
            self._answer(proxy, fault, body)
        finally:
            with proxy._lock:
                proxy._now -= 1

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _answer(self, proxy: Proxy, fault: Fault | None, body: bytes) -> None:
        kind = fault.kind if fault else ""
        if kind == "500":
            return self._refuse(500, "InternalError", "We encountered an internal error. Please try again.")
        if kind == "503":
            return self._refuse(503, "SlowDown", "Please reduce your request rate.")
        if kind == "403":
            return self._refuse(403, "ExpiredToken", "The provided token has expired.")
        if kind == "reset":
            return self._reset()
        if kind == "hang":
            assert fault is not None
            time.sleep(fault.seconds)
            return self._reset()
        conditional = self.headers.get("If-None-Match") or self.headers.get("If-Match")
        with proxy._writes if self.command == "PUT" and conditional else contextlib.nullcontext():
            status, headers, content = self._forward(proxy, body)
        if kind == "late":
            return self._reset()
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Connection", "keep-alive")
        self.end_headers()
        if kind == "truncate":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self._reset()
        self.wfile.write(content)
        return None

    def _forward(self, proxy: Proxy, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        for attempt in (0, 1):
            fresh = self._upstream is None
            if self._upstream is None:
                self._upstream = http.client.HTTPConnection(*proxy.upstream, timeout=60)
            try:
                self._upstream.request(self.command, self.path, body, sent)
                got = self._upstream.getresponse()
                content = got.read()
                break
            except (http.client.HTTPException, OSError):  # an idle connection that the server closed
                self._upstream.close()
                self._upstream = None
                if fresh or attempt:
                    raise
        headers = [(k, v) for k, v in got.getheaders() if k.lower() not in _HOP - {"date"}]
        size = got.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        return got.status, [*headers, ("Content-Length", size or "0")], content

    def _refuse(self, status: int, code: str, message: str) -> None:
        content = b"" if self.command == "HEAD" else _ERROR.format(code, message).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
