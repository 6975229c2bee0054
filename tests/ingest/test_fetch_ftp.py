"""Fetching over FTP, against a small server on the loopback."""

from __future__ import annotations

import hashlib
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from genostore.errors import SourceError
from ingest.fetch import download as downloading
from ingest.fetch import fetch

CONTENT = bytes(range(256)) * 8_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Session(socketserver.StreamRequestHandler):
    """Enough of RFC 959 and 3659 for a client that retrieves binary files in passive mode."""

    server: Server

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        self.say("220 ready")
        rest, data = 0, None
        for line in self.rfile:
            verb, _, argument = line.decode().strip().partition(" ")
            self.server.log.append(f"{verb} {argument}".strip())
            file = self.server.files.get(argument)
            match verb:
                case "USER":
                    self.say("331 and the password")
                case "PASS":
                    self.say("230 in" if self.server.open_to_all else "530 not you")
                case "TYPE":
                    self.say("200 binary")
                case "SIZE" if file is not None:
                    self.say(f"213 {len(file)}")
                case "MDTM" if file is not None:
                    self.say(f"213 {self.server.time}")
                case "PASV" | "EPSV":
                    data = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
                    port = data.server_address[1]
                    self.say(
                        f"229 here (|||{port}|)"
                        if verb == "EPSV"
                        else f"227 here (127,0,0,1,{port // 256},{port % 256})"
                    )
                case "REST":
                    rest = int(argument)
                    self.say("350 from there")
                case "RETR" if file is not None and data is not None:
                    self.say("150 it comes")
                    connection, _ = data.socket.accept()
                    cut = self.server.cuts.pop(0) if self.server.cuts else None
                    connection.sendall(file[rest:][:cut])
                    connection.close()
                    data.server_close()
                    self.say("226 that was it" if cut is None else "426 cut off")
                case _:
                    self.say("550 no such file")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.files = {"/pub/x y.bw": CONTENT}
        self.time = "20250301100000"
        self.open_to_all = True
        self.cuts: list[int] = []
        self.log: list[str] = []
        self.url = f"ftp://127.0.0.1:{self.server_address[1]}/pub/x%20y.bw"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("GENOSTORE_CACHE", str(tmp_path))
    monkeypatch.setattr(downloading, "PAUSE", 0.001)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched(server: Server) -> None:
    path = fetch(server.url, sha256=SHA256)
    assert path.name == "x y.bw"
    assert path.read_bytes() == CONTENT
    assert "USER anonymous" in server.log


def test_a_dropped_transfer_is_resumed(server: Server) -> None:
    server.cuts = [500_000, 700_000]
    assert fetch(server.url, sha256=SHA256).read_bytes() == CONTENT
    assert [line for line in server.log if line.startswith("REST")] == ["REST 500000", "REST 1200000"]


def test_a_changed_file_starts_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server.cuts = [500_000]
    with pytest.raises(SourceError, match=r"ended after 500,000 of 2,048,000 bytes; .*500,000 bytes are kept"):
        fetch(server.url, sha256=SHA256)
    server.time = "20250302100000"
    assert fetch(server.url, sha256=SHA256).read_bytes() == CONTENT
    assert not any(line.startswith("REST") for line in server.log)


def test_absent_refused_and_malformed(server: Server) -> None:
    with pytest.raises(SourceError, match=r"gone.bw is refused: 550 no such file"):
        fetch(server.url.replace("x%20y", "gone"))
    with pytest.raises(SourceError, match="is no FTP path"):
        fetch(server.url.replace("x%20y", "a%0d%0aDELE%20b"))
    server.open_to_all = False
    with pytest.raises(SourceError, match="is refused: 530 not you") as caught:
        fetch(server.url.replace("ftp://", "ftp://jane:hunter2@"))
    assert "hunter2" not in str(caught.value)
    assert "PASS hunter2" in server.log


def test_nothing_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "PAUSE", 0.001)
    with pytest.raises(SourceError, match="connection refused; gave up"):
        fetch("ftp://127.0.0.1:1/x.bw", cache=tmp_path)
