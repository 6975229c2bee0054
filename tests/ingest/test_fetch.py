"""Fetching, against a real server on the loopback."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from genostore.errors import SourceError, WriteError
from ingest.fetch import cache as caching
from ingest.fetch import cache_folder, cached, check_source, fetch, file_name, portal_accession, portals, redact, scheme
from ingest.fetch import download as downloading

CONTENT = bytes(range(256)) * 20_000  # 5 MB: more than the socket's buffers
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Page:
    """One path of the site; each GET takes the next of ``faults`` (a status, a number of bytes, or None)."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"'})
    ranges: bool = True
    faults: list[int | tuple[str, int] | None] = field(default_factory=list)
    status: int = 200
    lengthless: bool = False


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Site:
    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.server = Server(("127.0.0.1", 0), functools.partial(Handler, self))
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def gets(self, path: str) -> list[dict[str, str]]:
        return [headers for method, at, headers in self.log if method == "GET" and at.partition("?")[0] == path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer may wait 40 ms between its headers and its content

    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.site.log.append((self.command, self.path, dict(self.headers)))
        page = self.site.pages.get(self.path.partition("?")[0])
        if page is None:
            return self.finish_with(404, {}, b"nothing here", body)
        fault = page.faults.pop(0) if page.faults and body else None
        if isinstance(fault, tuple):
            return self.finish_with(fault[1], {"Retry-After": "7"} if fault[1] < 500 else {}, b"busy", body)
        start, status = 0, page.status
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, page.headers.get("ETag"), page.headers.get("Last-Modified"))
        headers = dict(page.headers)
        if asked and page.ranges and same:
            start, status = int(asked[1]), 206
            if start >= len(page.content):
                return self.finish_with(416, {"Content-Range": f"bytes */{len(page.content)}"}, b"", body)
            headers["Content-Range"] = f"bytes {start}-{len(page.content) - 1}/{len(page.content)}"
        return self.finish_with(status, headers, page.content[start:], body, fault, page.lengthless)

    def finish_with(
        self,
        status: int,
        headers: dict[str, str],
        content: bytes,
        body: bool,
        cut: int | None = None,
        lengthless: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if lengthless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has read what it wanted
            if body:
                self.wfile.write(content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = self.close_connection or lengthless or cut is not None


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    site = Site()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("GENOSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "PAUSE", 0.001)
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"lock"}


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_verified_and_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    site.pages["/a/K562.bw"] = Page()
    seen: list[tuple[int, int | None]] = []
    path = fetch(f"{site.url}/a/K562.bw", sha256=SHA256, progress=lambda done, size: seen.append((done, size)))
    assert path.name == "K562.bw"
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert fetch(f"{site.url}/a/K562.bw", sha256=SHA256.upper()) == path
    assert fetch("http://elsewhere.invalid/b/K562.bw", sha256=SHA256) == path, "the same content, whoever has it"
    assert len(site.log) == 1
    assert leftovers(path.parent) == {"K562.bw", "fetched.json"}


def test_without_a_checksum_the_length_is_what_is_verified(site: Site) -> None:
    site.pages["/x.bed"] = Page(b"chr1\t0\t5\n")
    path = fetch(f"{site.url}/x.bed")
    assert path.read_bytes() == b"chr1\t0\t5\n"
    assert fetch(f"{site.url}/x.bed") == path
    assert len(site.log) == 1


def test_an_empty_file_is_a_file(site: Site) -> None:
    site.pages["/x.bed"] = Page(b"")
    assert fetch(f"{site.url}/x.bed").read_bytes() == b""


def test_a_dropped_connection_is_resumed(site: Site) -> None:
    site.pages["/x.bw"] = Page(faults=[3_000_000, 1_000_000])
    assert fetch(f"{site.url}/x.bw", md5=MD5).read_bytes() == CONTENT
    first, second, third = site.gets("/x.bw")
    assert "Range" not in first
    assert second["If-Range"] == '"v1"'
    begins = [int(headers["Range"][6:-1]) for headers in (second, third)]
    assert begins == [3_000_000, 4_000_000]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/x.bw"] = Page(faults=[2_000_000])
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    with pytest.raises(SourceError, match=r"broke off.*gave up after 1 attempts; 2,000,000 bytes are kept"):
        fetch(f"{site.url}/x.bw", sha256=SHA256)
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert site.gets("/x.bw")[1]["Range"] == "bytes=2000000-"


def test_progress_on_a_bad_line_is_not_counted_as_failure(site: Site) -> None:
    site.pages["/x.bw"] = Page(faults=[300_000] * 15)
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "page",
    [
        Page(ranges=False, faults=[2_000_000]),
        Page(headers={}, faults=[2_000_000]),
        Page(headers={"ETag": 'W/"weak"'}, faults=[2_000_000]),
    ],
    ids=["no ranges", "no validator", "weak validator"],
)
def test_what_cannot_be_resumed_starts_over(site: Site, page: Page) -> None:
    site.pages["/x.bw"] = page
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert len(site.gets("/x.bw")) == 2
    assert ("Range" in site.gets("/x.bw")[1]) == (not page.ranges)


def test_a_server_that_always_drops_and_cannot_resume_is_given_up(site: Site) -> None:
    site.pages["/x.bw"] = Page(ranges=False, faults=[2_000_000] * 20)
    with pytest.raises(SourceError, match="gave up after 6 attempts"):
        fetch(f"{site.url}/x.bw", sha256=SHA256)


def test_last_modified_serves_as_validator(site: Site) -> None:
    date = "Sat, 01 Mar 2025 10:00:00 GMT"
    site.pages["/x.bw"] = Page(headers={"Last-Modified": date}, faults=[2_000_000])
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert site.gets("/x.bw")[1]["If-Range"] == date


def test_a_file_that_changed_between_attempts_is_fetched_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/x.bw"] = Page(b"old" * 1_000_000, faults=[2_000_000])
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    with pytest.raises(SourceError):
        fetch(f"{site.url}/x.bw", sha256=SHA256)
    site.pages["/x.bw"] = Page(headers={"ETag": '"v2"'})
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert site.gets("/x.bw")[1]["If-Range"] == '"v1"'


def test_halves_of_two_versions_are_noticed_by_the_checksum(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/x.bw"] = Page(b"old" * 1_000_000, faults=[2_000_000])
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    with pytest.raises(SourceError):
        fetch(f"{site.url}/x.bw", sha256=SHA256)
    site.pages["/x.bw"] = Page()  # another file under the same ETag
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert ["Range" in headers for headers in site.gets("/x.bw")] == [False, True, False]


def test_a_partial_file_longer_than_the_file_starts_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/x.bw"] = Page(b"old" * 1_000_000, faults=[2_000_000])
    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    with pytest.raises(SourceError):
        fetch(f"{site.url}/x.bw")
    site.pages["/x.bw"] = Page(b"short")  # the same ETag: the server answers 416
    assert fetch(f"{site.url}/x.bw").read_bytes() == b"short"


def test_a_wrong_checksum_names_both_and_keeps_nothing(site: Site, tmp_path: Path) -> None:
    site.pages["/x.bw"] = Page(b"something else")
    got = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(SourceError, match=rf"its sha256 is {got}, expected {SHA256}; nothing of it is kept"):
        fetch(f"{site.url}/x.bw", sha256=SHA256)
    assert leftovers(tmp_path) == set()
    site.pages["/x.bw"] = Page()
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT


def test_both_checksums_are_checked(site: Site) -> None:
    site.pages["/x.bw"] = Page()
    with pytest.raises(SourceError, match="its md5 is"):
        fetch(f"{site.url}/x.bw", sha256=SHA256, md5="0" * 32)


def test_a_busy_server_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    site.pages["/x.bw"] = Page(faults=[("status", 503), ("status", 429), ("status", 503)])
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert pauses == [0.001, 7, 0.004], "as Retry-After says, or twice as long each time"


def test_a_server_that_stays_down_is_named(site: Site) -> None:
    site.pages["/x.bw"] = Page(faults=[("status", 500)] * 9)
    with pytest.raises(SourceError, match=rf"127.0.0.1:{site.port}/x.bw: status 500 .*gave up after 6 attempts$"):
        fetch(f"{site.url}/x.bw")
    assert len(site.log) == 6


def test_nothing_listening_is_refused_in_plain_words(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SourceError, match="connection refused; gave up after 6 attempts"):
        fetch(f"http://127.0.0.1:{port}/x.bw")


def test_a_short_body_without_a_length_is_caught_by_the_checksum(site: Site) -> None:
    site.pages["/x.bw"] = Page(lengthless=True, headers={}, faults=[2_000_000])
    with pytest.raises(SourceError, match="its sha256 is"):
        fetch(f"{site.url}/x.bw", sha256=SHA256)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"does not exist \(status 404\); check the URL"),
        (403, r"is refused \(status 403\); if it takes an account, .* machine 127.0.0.1 into ~/.netrc"),
        (418, "answers with status 418"),
    ],
)
def test_what_will_not_pass_is_not_retried(site: Site, status: int, message: str) -> None:
    site.pages["/x.bw"] = Page(status=status)
    with pytest.raises(SourceError, match=message):
        fetch(f"{site.url}/x.bw")
    assert len(site.log) == 1


def test_bytes_are_kept_as_sent(site: Site) -> None:
    packed = gzip.compress(b"chr1\t0\t5\n")
    site.pages["/x.bed.gz"] = Page(packed, headers={"Content-Encoding": "gzip"})
    assert fetch(f"{site.url}/x.bed.gz").read_bytes() == packed
    assert site.log[0][2]["Accept-Encoding"] == "identity"


def test_another_range_than_asked_for_is_refused(site: Site) -> None:
    site.pages["/x.bw"] = Page(b"abc", status=206)
    with pytest.raises(SourceError, match="another range of bytes"):
        fetch(f"{site.url}/x.bw")


def test_redirects_are_followed(site: Site) -> None:
    site.pages["/x.bw"] = Page(b"", headers={"Location": f"{site.url}/store/0815"}, status=302)
    site.pages["/store/0815"] = Page()
    path = fetch(f"{site.url}/x.bw", sha256=SHA256)
    assert path.name == "x.bw"


def test_nothing_secret_is_said_or_kept(site: Site, tmp_path: Path) -> None:
    site.pages["/x.bw"] = Page(b"wrong")
    url = f"http://jane:hunter2@127.0.0.1:{site.port}/x.bw?X-Amz-Signature=hunter3#x.bw"
    broken = url.replace(str(site.port), "1")
    messages = []
    for source, checks in ((url, {"sha256": SHA256}), (broken, {}), (url.replace("/x.bw", "/y.bw", 1), {})):
        with pytest.raises(SourceError) as caught:
            fetch(source, **checks)
        assert "127.0.0.1" in str(caught.value)
        messages.append("".join(traceback.format_exception(caught.value)))
    assert not any("hunter" in message for message in messages)
    site.pages["/x.bw"] = Page()
    fetch(url, sha256=SHA256)
    assert "Basic" in site.gets("/x.bw")[-1]["Authorization"]
    site.pages["/part.bw"] = Page(faults=[2_000_000] + [("status", 500)] * 9)
    with pytest.raises(SourceError):
        fetch(url.replace("x.bw", "part.bw"))
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".bw"]
    assert any(path.name == "part.bw.part.json" for path in kept)
    assert not any(b"hunter" in path.read_bytes() for path in kept)


def test_netrc_opens_what_takes_an_account(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login KEY password SECRET\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    site.pages["/x.bw"] = Page()
    fetch(f"{site.url}/x.bw", sha256=SHA256)
    assert site.log[0][2]["Authorization"] == "Basic S0VZOlNFQ1JFVA=="


# --- the cache ------------------------------------------------------------------------------------------------------


def test_a_cached_file_that_was_touched_is_hashed_again(site: Site) -> None:
    site.pages["/x.bw"] = Page()
    path = fetch(f"{site.url}/x.bw", sha256=SHA256)
    os.utime(path, (1, 1))
    assert fetch(f"{site.url}/x.bw", sha256=SHA256) == path
    assert len(site.log) == 1
    path.write_bytes(CONTENT[:-5])
    assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert len(site.log) == 2


def test_a_cached_file_without_its_record_is_fetched_again(site: Site) -> None:
    site.pages["/x.bw"] = Page()
    path = fetch(f"{site.url}/x.bw", sha256=SHA256)
    (path.parent / "fetched.json").write_text("[]")
    assert fetch(f"{site.url}/x.bw", sha256=SHA256) == path
    assert len(site.log) == 2


def test_a_read_only_cache_serves_what_it_has(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/x.bw"] = Page()
    assert cached(f"{site.url}/x.bw", sha256=SHA256) is None
    path = fetch(f"{site.url}/x.bw", sha256=SHA256)

    def no_lock(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caching, "FileLock", no_lock)
    assert fetch(f"{site.url}/x.bw", sha256=SHA256) == path
    assert cached(f"{site.url}/x.bw", sha256=SHA256) == path
    with pytest.raises(WriteError, match=r"cannot be written: permission denied; give permission, or set GENOSTORE_C"):
        fetch(f"{site.url}/y.bw")


def test_looking_into_the_cache_changes_nothing(site: Site) -> None:
    site.pages["/x.bw"] = Page()
    path = fetch(f"{site.url}/x.bw", sha256=SHA256)
    path.write_bytes(b"touched")
    assert cached(f"{site.url}/x.bw", sha256=SHA256) is None
    assert path.read_bytes() == b"touched"


_CHILD = """
import sys
from ingest.fetch import fetch
print(fetch(sys.argv[1], sha256=sys.argv[2]))
"""


def test_processes_that_want_one_file_fetch_it_once(site: Site) -> None:
    site.pages["/x.bw"] = Page()
    command = [sys.executable, "-c", _CHILD, f"{site.url}/x.bw", SHA256]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {child.communicate(timeout=60)[0].strip() for child in children}
    assert all(child.returncode == 0 for child in children)
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == CONTENT
    assert len(site.gets("/x.bw")) == 1


def test_a_killed_process_leaves_what_the_next_one_continues(site: Site) -> None:
    """The server holds the connection open in the middle, and the process is killed there."""
    site.pages["/x.bw"] = Page()
    hold = threading.Event()
    answer = Handler.finish_with

    def stall(self: Handler, status: int, headers: dict, content: bytes, *rest: object) -> None:
        if hold.is_set():
            answer(self, status, headers, content, *rest)  # type: ignore[arg-type]
            return
        self.send_response(status)
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:3_000_000])
        self.wfile.flush()
        hold.wait(30)
        self.close_connection = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "finish_with", stall)
        child = subprocess.Popen([sys.executable, "-c", _CHILD, f"{site.url}/x.bw", SHA256])
        cache = cache_folder()
        deadline = time.monotonic() + 30
        while not any(part.stat().st_size > 1_000_000 for part in cache.rglob("*.part")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.kill()
        child.wait()
        hold.set()
        assert not list(cache.rglob("x.bw")), "nothing under its name before it is whole"
        assert fetch(f"{site.url}/x.bw", sha256=SHA256).read_bytes() == CONTENT
    assert int(site.gets("/x.bw")[1]["Range"][6:-1]) > 1_000_000


def test_too_little_space_is_said_before_anything_is_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: usage(10**7, 9 * 10**6, 10**6))
    site.pages["/x.bw"] = Page()
    with pytest.raises(WriteError, match=r"has 1,000,000 bytes free and the rest of the file takes 5,120,000; make"):
        fetch(f"{site.url}/x.bw")


def test_a_disk_that_fills_up_on_the_way_is_named(site: Site, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write itself fails."""
    site.pages["/x.bw"] = Page()
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))" + _CHILD
    done = subprocess.run([sys.executable, "-c", code, f"{site.url}/x.bw", SHA256], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"WriteError: the cache .* cannot be written: file too large; .* GENOSTORE_CACHE", done.stderr)


def test_a_cache_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"the cache .*file.* cannot be written: .*set GENOSTORE_CACHE"):
        fetch(f"{site.url}/x.bw", cache=tmp_path / "file")


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENOSTORE_CACHE", raising=False)
    assert cache_folder().name == "genostore"


# --- local files and names ------------------------------------------------------------------------------------------


def test_a_local_file_is_returned_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a b.bw"
    path.write_bytes(CONTENT)
    assert fetch(path) == path
    assert fetch(str(path), sha256=SHA256, md5=MD5) == path
    with pytest.raises(SourceError, match=rf"a b.bw: its md5 is {MD5}, expected 0+; it is not the file"):
        fetch(path, md5="0" * 32)
    with pytest.raises(SourceError, match=r"no such file: .*gone.bw"):
        fetch(tmp_path / "gone.bw")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a.bw", ""),
        ("/data/a.bw", ""),
        ("./odd:name.bw", ""),
        ("dir/odd:name.bw", ""),
        ("x.mcool::/resolutions/5000", ""),
        ("C:\\data\\a.bw", ""),
        ("HTTPS://x.org/a.bw", "https"),
        ("4dn:4DNFITUOMFUQ", "4dn"),
        ("svn+ssh://x/y", "svn+ssh"),
    ],
)
def test_scheme(source: str, kind: str) -> None:
    assert scheme(source) == kind


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("file:///etc/passwd", r"unknown scheme 'file:' .*expected http:, .*or a path \(./...\)"),
        ("javascript:alert(1)", "unknown scheme"),
        ("https:/x.org/a.bw", "is no URL; expected https://host/path/file"),
        ("https:///a.bw", "is no URL"),
        ("https://x.org:port/a.bw", "is no URL: port"),
        ("https://[x/a.bw", "is no URL"),
        ("https://u:hunter2@x.org/?acc=GSM1", r"https://x.org/\?...' names no file; end it with #name.bw"),
        ("encode:ENCSR000EOT", r"expected encode:ENCFF414OGC \(a file, not an experiment\)"),
        ("4dn:ENCFF414OGC", "expected 4dn:4DNFITUOMFUQ"),
        ("hf:GeneExp", "expected hf:owner/dataset/path"),
        ("hf:owner/dataset/", "expected hf:owner/dataset/path"),
    ],
)
def test_a_source_that_could_never_be_fetched_is_refused(source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        check_source(source)
    assert "hunter" not in str(caught.value)
    with pytest.raises(SourceError):
        fetch(source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/a.bw", "a.bw"),
        ("https://x.org/d/a%20b.bw?sig=1", "a b.bw"),
        ("https://x.org/geo?acc=GSM1#GSM1.bw", "GSM1.bw"),
        ("https://x.org/a#..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://x.org/a%2f..", ""),
        ("hf:o/d@v1/dir/a.csv", "a.csv"),
        ("encode:ENCFF414OGC", "ENCFF414OGC"),
        ("s3://bucket/k/a.bw", "a.bw"),
    ],
)
def test_file_name(source: str, name: str) -> None:
    assert file_name(source) == name


def test_redact() -> None:
    assert redact("https://u:p@x.org:8080/a.bw?X-Amz-Signature=s#n") == "https://x.org:8080/a.bw?..."
    assert redact("ftp://u:p@x.org/a.bw") == "ftp://x.org/a.bw"
    assert redact("/data/a@b.bw") == "/data/a@b.bw"
    assert redact("https://[u:p@x") == "https://..."


def test_portal_accession() -> None:
    assert portal_accession("encode:ENCFF414OGC") == portal_accession("ENCODE:ENCFF414OGC") == "ENCFF414OGC"
    assert portal_accession("4dn:4DNFITUOMFUQ") == "4DNFITUOMFUQ"
    assert portal_accession("hf:o/d/a.csv") is None
    assert portal_accession("ENCFF414OGC.bigWig") is None


# --- portals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def portal(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    for _, variable in portals.BASES.values():
        monkeypatch.setenv(variable, site.url + "/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return site


def page(**about: object) -> Page:
    return Page(json.dumps(about).encode(), headers={"Content-Type": "application/json"})


def test_encode_states_where_the_file_is_and_its_md5(portal: Site) -> None:
    href = "/files/ENCFF414OGC/@@download/ENCFF414OGC.bigWig"
    portal.pages["/files/ENCFF414OGC/"] = page(href=href, md5sum=MD5, file_size=len(CONTENT))
    portal.pages[href] = Page(faults=[2_000_000])
    path = fetch("encode:ENCFF414OGC")
    assert path.name == "ENCFF414OGC.bigWig"
    assert path.read_bytes() == CONTENT
    requests = len(portal.log)
    assert fetch("encode:ENCFF414OGC") == path
    assert len(portal.log) == requests, "a cached accession takes no network"


def test_what_encode_sends_must_have_the_md5_it_states(portal: Site) -> None:
    portal.pages["/files/ENCFF414OGC/"] = page(href="/x.bigWig", md5sum=MD5)
    portal.pages["/x.bigWig"] = Page(b"an error page with status 200")
    with pytest.raises(SourceError, match=rf"encode:ENCFF414OGC: its md5 is .*, expected {MD5}"):
        fetch("encode:ENCFF414OGC")


def test_an_accession_that_is_not_there(portal: Site) -> None:
    with pytest.raises(SourceError, match=r"/files/ENCFF000000/.* does not exist .*check the URL or the accession"):
        fetch("encode:ENCFF000000")


@pytest.mark.parametrize("about", [b"<html>", b"[]", b'{"md5sum": "x"}', b'{"href": 5}'])
def test_a_portal_that_says_something_else(portal: Site, about: bytes) -> None:
    portal.pages["/files/ENCFF414OGC/"] = Page(about)
    with pytest.raises(SourceError, match="does not say where the file is"):
        fetch("encode:ENCFF414OGC")


def test_a_portal_without_a_checksum_needs_one_from_us(portal: Site) -> None:
    portal.pages["/files/ENCFF414OGC/"] = page(href="/x.bigWig")
    portal.pages["/x.bigWig"] = Page()
    with pytest.raises(SourceError, match="its archive states no checksum; give its sha256 or md5"):
        fetch("encode:ENCFF414OGC")
    assert fetch("encode:ENCFF414OGC", sha256=SHA256).read_bytes() == CONTENT


def test_4dn_open_data_take_no_account(portal: Site) -> None:
    portal.pages["/4DNFITUOMFUQ/"] = page(
        href="/files-processed/4DNFITUOMFUQ/@@download/4DNFITUOMFUQ.hic",
        open_data_url=f"{portal.url}/open/4DNFITUOMFUQ.hic",
        md5sum=MD5,
    )
    portal.pages["/open/4DNFITUOMFUQ.hic"] = Page()
    assert fetch("4dn:4DNFITUOMFUQ").name == "4DNFITUOMFUQ.hic"


def test_4dn_files_that_take_an_account_say_so(portal: Site) -> None:
    href = "/files-processed/4DNFITUOMFUQ/@@download/4DNFITUOMFUQ.hic"
    portal.pages["/4DNFITUOMFUQ/"] = page(href=href, md5sum=MD5)
    portal.pages[href] = Page(status=403)
    with pytest.raises(SourceError, match=r"4DNFITUOMFUQ.hic is refused \(status 403\); if it takes an account"):
        fetch("4dn:4DNFITUOMFUQ")


def test_hugging_face_large_files_by_sha256(portal: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to the hub and not to the storage that it redirects to."""
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    storage = f"http://localhost:{portal.port}/blob"
    portal.pages["/datasets/o/d/resolve/main/hg38/hg%20.fa"] = Page(
        b"", status=302, headers={"X-Linked-ETag": f'"{SHA256}"', "ETag": '"other"', "Location": storage}
    )
    portal.pages["/blob"] = Page(headers={"ETag": '"blob"'})
    path = fetch("hf:o/d/hg38/hg .fa")
    assert path.name == "hg .fa"
    assert path.read_bytes() == CONTENT
    sent = {at: headers.get("Authorization") for _, at, headers in portal.log}
    assert sent == {"/datasets/o/d/resolve/main/hg38/hg%20.fa": "Bearer hunter2", "/blob": None}


def test_hugging_face_small_files_by_git_blob(portal: Site) -> None:
    table = b"ENSID,fold_11\n"
    blob = hashlib.sha1(b"blob 14\0" + table).hexdigest()
    moved = Page(b"", status=307, headers={"Location": "/datasets/new/d/resolve/v1/a.csv"})
    portal.pages["/datasets/old/d/resolve/v1/a.csv"] = moved
    portal.pages["/datasets/new/d/resolve/v1/a.csv"] = Page(table, headers={"ETag": f'"{blob}"'})
    assert fetch("hf:old/d@v1/a.csv").read_bytes() == table
    portal.pages["/datasets/new/d/resolve/v1/b.csv"] = Page(b"other", headers={"ETag": f'W/"{blob}"'})
    with pytest.raises(SourceError, match=rf"its git blob id is .*, expected {blob}"):
        fetch("hf:new/d@v1/b.csv")


# --- object stores --------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    return site


OBJECT = {"ETag": '"o1"', "Last-Modified": "Sat, 01 Mar 2025 10:00:00 GMT"}


def test_s3_public_data_are_fetched_without_credentials(bucket: Site) -> None:
    bucket.pages["/public/dir/x.bw"] = Page(headers=OBJECT, faults=[3_000_000])
    path = fetch("s3://public/dir/x.bw", sha256=SHA256)
    assert path.name == "x.bw"
    assert path.read_bytes() == CONTENT
    assert all("Authorization" not in headers for _, _, headers in bucket.log)
    assert any(re.match(r"bytes=[1-9]", headers.get("Range", headers.get("range", ""))) for _, _, headers in bucket.log)


def test_s3_absent_and_refused(bucket: Site) -> None:
    with pytest.raises(SourceError, match=r"s3://public/x.bw does not exist; check the bucket and the path"):
        fetch("s3://public/x.bw")
    bucket.pages["/private/x.bw"] = Page(status=403)
    with pytest.raises(SourceError, match=r"s3://private/x.bw is refused, without credentials and with those of"):
        fetch("s3://private/x.bw")
    assert any("AWS4-HMAC" in str(headers) for _, at, headers in bucket.log if at == "/private/x.bw")


def test_without_obstore_the_extra_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SourceError, match=r"takes obstore: pip install 'genostore\[cloud\]'"):
        fetch("gs://bucket/x.bw")


def test_importing_fetch_is_light() -> None:
    code = "import sys, ingest.fetch; print({'requests', 'obstore', 'pooch', 'torch', 'dask'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
