"""Stores on S3 and behind web servers give what the same store gives on disk."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import genostore
from genostore.errors import FormatError, RemoteError
from tests.alone import alone
from tests.genostore.conftest import Toy

from .conftest import S3
from .server import BUCKET, connect


def query(store: genostore.Store) -> Any:
    contacts = genostore.Contacts("hic", 100, weight="VC", kind="profile", flank=500)
    return store.windows(width=200, jitter=5, expression="CAGE", features="all", contacts=contacts)


def same(one: genostore.Store, other: genostore.Store) -> None:
    pd.testing.assert_frame_equal(one.tracks, other.tracks)
    pd.testing.assert_frame_equal(one.genes, other.genes)
    pd.testing.assert_frame_equal(one.regions("blacklist"), other.regions("blacklist"))
    mine, theirs = query(one), query(other)
    got, expected = (w.read(np.arange(len(w))) for w in (mine, theirs))
    for part in ("sequence", "signal", "contacts", "features", "target"):
        np.testing.assert_array_equal(getattr(got, part), getattr(expected, part), err_msg=part)
    region = "chr1:100-4,000"
    np.testing.assert_array_equal(one.sequence(region), other.sequence(region))
    signal = [s.signal(region, cell_types=["A"], assays=["DNase", "RNA+"]).compute() for s in (one, other)]
    np.testing.assert_array_equal(*signal)


def test_a_store_on_s3_equals_the_one_on_disk(s3: S3, toy: Toy) -> None:
    store = genostore.open(s3.upload(toy.path, "toy.zarr"))
    same(store, toy.open())
    assert store.path == s3.url("toy.zarr")


def _read_elsewhere(raw: bytes) -> np.ndarray:
    return pickle.loads(raw).track("A", "DNase").read()


def test_a_store_on_s3_goes_to_other_processes(s3: S3, toy: Toy) -> None:
    store = genostore.open(s3.upload(toy.path, "toy.zarr"))
    expected = toy.open().track("A", "DNase").read()
    np.testing.assert_array_equal(store.track("A", "DNase").read(), expected)
    raw = pickle.dumps(store)
    assert b"test-secret-key" not in raw
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_read_elsewhere, (raw,)), expected)


def test_a_forked_child_is_told(s3: S3, toy: Toy) -> None:
    script = """
        import multiprocessing, sys, genostore
        genostore.open(sys.argv[1])
        with multiprocessing.get_context("fork").Pool(1) as pool:
            try:
                pool.apply(genostore.open, (sys.argv[1],))
            except genostore.errors.ForkError as error:
                print(error)
    """
    assert "spawn" in alone(script, s3.upload(toy.path, "toy.zarr"))


def test_public_data_need_no_credentials(s3: S3, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    public = s3.upload(toy.path, "public.zarr", ACL="public-read")
    private = s3.upload(toy.path, "private.zarr")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    same(genostore.open(public), toy.open())
    with pytest.raises(RemoteError, match=r"access is refused .* with anonymous credentials; set or renew AWS_ACCESS"):
        genostore.open(private)


def test_credentials_of_a_profile(s3: S3, toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = s3.upload(toy.path, "toy.zarr")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = test\naws_secret_access_key = test-secret-key\n")
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3.proxy.url}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store = genostore.open(url)
    np.testing.assert_array_equal(store.track("A", "DNase").read(), toy.open().track("A", "DNase").read())
    assert "test-secret-key" not in repr(store.storage._access)


def test_a_store_that_is_not_there(s3: S3) -> None:
    with pytest.raises(FormatError, match=r"is not a genostore store: it holds no zarr\.json"):
        genostore.open(s3.url("absent.zarr"))


def test_an_endpoint_with_a_password_is_refused_without_telling_it(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:secret@127.0.0.1:1")
    with pytest.raises(FormatError, match=r"AWS_ENDPOINT_URL http://127\.0\.0\.1:1 carries") as caught:
        genostore.open(s3.url("toy.zarr"))
    assert "secret" not in str(caught.value)


class Static(http.server.BaseHTTPRequestHandler):
    """Serves files and ranges of them, as nginx does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # see tests/objects/server.py

    def __init__(self, *args: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.folder / http.server.urllib.parse.unquote(self.path).lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, etag = path.read_bytes(), f'"{path.stat().st_mtime_ns:x}"'
        size, asked = len(content), self.headers.get("Range", "").removeprefix("bytes=")
        if asked:
            first, _, last = asked.partition("-")
            start = int(first) if first else max(size - int(last), 0)
            stop = min(int(last) + 1, size) if first and last else size
            content = content[start:stop]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


@pytest.fixture
def static(tmp_path: Path, toy: Toy) -> Iterator[tuple[http.server.ThreadingHTTPServer, Path]]:
    import shutil

    shutil.copytree(toy.path, tmp_path / "www/toy.zarr")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Static, folder=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server, tmp_path / "www/toy.zarr"
    server.shutdown()
    server.server_close()


def test_a_store_behind_a_web_server(static: Any, toy: Toy) -> None:
    server, folder = static
    url = f"http://127.0.0.1:{server.server_address[1]}/toy.zarr"
    store = genostore.open(url)
    same(store, toy.open())
    with pytest.raises(RemoteError, match="is read-only: nothing is written over http"):
        genostore.staging.remove(store.storage, "tracks/A/DNase")
    (folder / "index.json").unlink()
    with pytest.raises(FormatError, match=r"has no index\.json, and nothing can be listed over http"):
        genostore.open(url).tracks  # noqa: B018


def test_a_store_behind_https(static: Any, toy: Toy, tmp_path: Path) -> None:
    """With a certificate of one's own authority, named as curl and OpenSSL take it."""
    import ssl

    certify(tmp_path)
    server, _ = static
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = secure.wrap_socket(server.socket, server_side=True)
    script = f"""
import numpy as np, genostore
remote = genostore.open("https://localhost:{server.server_address[1]}/toy.zarr")
local = genostore.open({str(toy.path)!r})
np.testing.assert_array_equal(remote.track("A", "DNase").read(), local.track("A", "DNase").read())
"""
    env = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem"), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def certify(folder: Path) -> None:
    """Make an authority and a server's certificate for localhost."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def make(name: str, signer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer, by = (signer[0].subject, signer[1]) if signer else (subject, key)
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=7))
        builder = builder.add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        if signer:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(by, hashes.SHA256()), key

    authority = make("lab", None)
    server, key = make("localhost", authority)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority[0].public_bytes(pem))
    (folder / "server.pem").write_bytes(server.public_bytes(pem))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(key.private_bytes(pem, *plain))


def test_a_listing_stands_in_for_an_index(s3: S3, toy: Toy) -> None:
    store = genostore.open(s3.upload(toy.path, "toy.zarr"))
    before = store.entries
    connect(s3.upstream).delete_object(Bucket=BUCKET, Key=f"{s3.prefix}/toy.zarr/index.json")
    assert genostore.open(store.path).entries == before
