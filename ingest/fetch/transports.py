"""Open a remote file at an offset: HTTP(S), FTP, and object stores.

A transport's ``open`` gives a `Reply`, or raises `TransientError` for what may pass and `SourceError` for what
will not. No message holds a URL's user, password or query.
"""

from __future__ import annotations

import ftplib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from genostore.errors import SourceError
from ingest.fetch.names import redact, scheme

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 20
TIMEOUT = (20, 60)  # seconds to connect, and between bytes


class TransientError(Exception):
    """Something that may pass: try again, after ``wait`` seconds if the server says so."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass
class Reply:
    """A remote file, open for reading.

    Attributes
    ----------
    offset
        Where the bytes begin: at the offset asked for, or at 0 if the rest of that version is not to be had.
    size
        Of the whole file, if it is stated.
    validator
        What names this version of the file; None if the server offers nothing dependable.
    chunks
        The bytes. Iterating may raise `TransientError`.
    """

    offset: int
    size: int | None
    validator: str | None
    chunks: Iterator[bytes]
    closing: list[Any] = field(default_factory=list)

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for resource in self.closing:
            resource.close()


class Transport(Protocol):
    """One way to reach a file."""

    def open(self, offset: int, validator: str | None) -> AbstractContextManager[Reply]:
        """Open the file from ``offset`` on if it is still the version of ``validator``, else from its start."""


def transport(url: str, headers: dict[str, str] | None = None) -> Transport:
    """Choose the transport of a URL.

    Parameters
    ----------
    url
        With a scheme of `ingest.fetch.names.URLS`.
    headers
        Sent with HTTP requests to that host, and not past a redirect to another if they carry authorisation.

    Returns
    -------
    Transport
    """
    match scheme(url):
        case "ftp":
            return FTP(url)
        case "s3" | "gs":
            return ObjectStore(url)
    return HTTP(url, headers or {})


def reason(error: BaseException) -> str:
    """What went wrong beneath a library's exception, without the URL that its message may hold."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        at = pending.pop(0)
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, TimeoutError) or "Timeout" in type(at).__name__:
            return "timed out"
        if isinstance(at, OSError) and at.strerror and not at.filename:
            return at.strerror.lower()
        nested = [getattr(at, "reason", None), *at.args]
        pending += [at.__cause__, at.__context__, *(n for n in nested if isinstance(n, BaseException))]
    return re.sub(r"(?<!^)(?=[A-Z][a-z])", " ", type(error).__name__).lower()


class HTTP:
    """HTTP and HTTPS, with proxies and ``~/.netrc`` as the environment sets them."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url
        self.headers = headers

    def open(self, offset: int, validator: str | None) -> Reply:
        """Ask for the file, or for the rest of it with ``Range`` and ``If-Range``."""
        import requests

        headers = {**self.headers, "Accept-Encoding": "identity"}
        if offset and validator:
            headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
        try:
            response = requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUT)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise TransientError(reason(error)) from None
        except (requests.RequestException, ValueError) as error:
            raise SourceError(f"{redact(self.url)} cannot be asked for: {reason(error)}") from None
        if response.status_code == 416 and offset:  # what is there is shorter than what we have
            response.close()
            return self.open(0, None)
        try:
            return self._reply(response, offset)
        except BaseException:
            response.close()
            raise

    def _reply(self, response: requests.Response, offset: int) -> Reply:
        check_status(response, self.url)
        length = response.headers.get("Content-Length")
        size = int(length) if length and length.isdecimal() else None
        start = 0
        if response.status_code == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != offset:
                raise SourceError(f"{redact(self.url)} answers with another range of bytes than it was asked for")
            start = offset
            size = int(span[2]) if span[2] != "*" else size and size + offset
        return Reply(start, size, _validator(response), _chunks(response), [response])


def check_status(response: requests.Response, url: str) -> None:
    """Raise for a status that is no success: `TransientError` if it may pass, else `SourceError`.

    Parameters
    ----------
    response
        An answer.
    url
        What was asked for.
    """
    status, where = response.status_code, redact(url)
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        wait = response.headers.get("Retry-After", "")
        raise TransientError(f"status {status} {response.reason}", float(wait) if wait.isdecimal() else None)
    if status in (401, 403, 407):
        host = urlsplit(url).hostname
        raise SourceError(
            f"{where} is refused (status {status}); if it takes an account, put the key's login and password for "
            f"machine {host} into ~/.netrc, or download it by hand and give its path"
        )
    if status in (404, 410):
        raise SourceError(f"{where} does not exist (status {status}); check the URL or the accession")
    raise SourceError(f"{where} answers with status {status} {response.reason}, expected the file")


def _validator(response: requests.Response) -> str | None:
    """What ``If-Range`` accepts: a strong ETag, else the time of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        # As sent: a .gz that the server calls an encoding must stay one.
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (HTTPError, OSError) as error:
        raise TransientError(f"the connection broke off ({reason(error)})") from None


class FTP:
    """FTP, anonymous unless the URL names a user."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.host, self.port = url, parts.hostname or "", parts.port or ftplib.FTP_PORT
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self.path = unquote(parts.path)

    def open(self, offset: int, validator: str | None) -> Reply:
        """Log in and retrieve, with ``REST`` if size and time of the file are those of the first part."""
        connection = ftplib.FTP(timeout=TIMEOUT[1])
        try:
            connection.connect(self.host, self.port)
            connection.login(self.user, self.password)
            connection.voidcmd("TYPE I")
            size = connection.size(self.path)
            version = f"{size} {connection.sendcmd(f'MDTM {self.path}')[4:]}"
            start = offset if offset and version == validator else 0
            data = connection.transfercmd(f"RETR {self.path}", rest=start or None)
        except ftplib.error_perm as error:
            connection.close()
            raise SourceError(f"{redact(self.url)} is refused: {error}") from None
        except (OSError, EOFError, ftplib.Error) as error:
            connection.close()
            raise TransientError(reason(error)) from None
        except ValueError:
            connection.close()
            raise SourceError(f"{redact(self.url)!r} is no FTP path") from None
        return Reply(start, size, version, self._chunks(data), [data, connection])

    @staticmethod
    def _chunks(data: Any) -> Iterator[bytes]:
        try:
            while chunk := data.recv(CHUNK):
                yield chunk
        except OSError as error:
            raise TransientError(f"the connection broke off ({reason(error)})") from None


class ObjectStore:
    """S3 and Google Cloud Storage: first without credentials, as public data need, then with the environment's."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.bucket, self.path = url, f"{scheme(url)}://{parts.netloc}", unquote(parts.path.lstrip("/"))

    def open(self, offset: int, validator: str | None) -> Reply:
        """Get the object, or the rest of it if its ETag is that of the first part."""
        try:
            import obstore
            from obstore import exceptions
            from obstore.store import from_url
        except ImportError:
            raise SourceError(
                f"{redact(self.url)} is in an object store, which takes obstore: pip install 'genostore[cloud]'"
            ) from None
        refusal = ""
        for anonymous in (True, False):
            try:
                store = from_url(self.bucket, skip_signature=anonymous, retry_config={"max_retries": 0})
                about = obstore.head(store, self.path)
                version = about["e_tag"] or about["last_modified"].isoformat()
                start = offset if offset and version == validator else 0
                options: Any = {"if_match": about["e_tag"]} if about["e_tag"] else {}
                if start:
                    options["range"] = {"offset": start}
                result = obstore.get(store, self.path, options=options)
                return Reply(start, about["size"], version, self._chunks(result))
            except (exceptions.NotFoundError, FileNotFoundError):
                raise SourceError(f"{redact(self.url)} does not exist; check the bucket and the path") from None
            except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
                refusal = type(error).__name__
            except exceptions.BaseError as error:
                if not anonymous and refusal:
                    break
                hint = "; is AWS_REGION the bucket's region?" if self.url.startswith("s3") else ""
                raise TransientError(f"the object store gives no answer ({type(error).__name__}{hint})") from None
        raise SourceError(
            f"{redact(self.url)} is refused, without credentials and with those of the environment ({refusal}); "
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or GOOGLE_APPLICATION_CREDENTIALS"
        )

    @staticmethod
    def _chunks(result: Any) -> Iterator[bytes]:
        from obstore.exceptions import BaseError

        try:
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except (BaseError, OSError) as error:
            raise TransientError(f"the connection broke off ({type(error).__name__})") from None
