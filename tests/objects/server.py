"""A real S3 server (moto's) in a process of its own, and the environment that leads there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "genomes"


def connect(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


def environment(endpoint: str) -> dict[str, str]:
    """Variables by which a store on a server is found, and nothing of the user's is."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


# Headers and content are sent apart; without this the second waits 40 ms for word of the first.
MOTO = """
import sys
from moto.server import main
from werkzeug.serving import WSGIRequestHandler
WSGIRequestHandler.disable_nagle_algorithm = True
main(sys.argv[1:])
"""


def upload(endpoint: str, folder: Path, prefix: str, **options: Any) -> None:
    """Copy a local store into the bucket, as ``aws s3 cp --recursive`` does."""
    client = connect(endpoint)

    def put(file: Path) -> None:
        key = f"{prefix}/{file.relative_to(folder).as_posix()}"
        client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes(), **options)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, (f for f in folder.rglob("*") if f.is_file() and ".genostore" not in f.parts)))


@contextmanager
def serve() -> Iterator[tuple[str, int]]:
    """Run the server, with a bucket; its host and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MOTO, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "moto's server did not start"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.1)
        connect(f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
        yield "127.0.0.1", port
    finally:
        server.kill()
        server.wait()
