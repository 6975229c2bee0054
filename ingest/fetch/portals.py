"""Accessions of public archives: where the file is, and the checksum that the archive states for it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from genostore.errors import SourceError
from ingest.fetch.names import accession, file_name, redact, scheme
from ingest.fetch.transports import TIMEOUT, TransientError, check_status, reason

if TYPE_CHECKING:
    import requests

#: Where each archive answers, and the environment variable that says otherwise (a mirror, a test).
BASES = {
    "encode": ("https://www.encodeproject.org", "GENOSTORE_ENCODE_URL"),
    "4dn": ("https://data.4dnucleome.org", "GENOSTORE_4DN_URL"),
    "hf": ("https://huggingface.co", "HF_ENDPOINT"),
}


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes
    ----------
    url
        Where it is.
    name
        What to call it.
    digests
        Algorithm (``sha256``, ``md5`` or ``git``: the sha1 of a git blob) -> hexadecimal digest.
    headers
        To send along.
    """

    url: str
    name: str
    digests: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def resolve(source: str) -> Remote:
    """Find the file of a source.

    Parameters
    ----------
    source
        A URL, which is its own answer, or an accession, whose archive is asked.

    Returns
    -------
    Remote

    Raises
    ------
    SourceError
        If the archive has no such file, or does not say where it is.
    ingest.fetch.transports.TransientError
        If it does not answer now.
    """
    match scheme(source):
        case "encode":
            return _of_portal(source, "encode", "files/{}/")
        case "4dn":
            return _of_portal(source, "4dn", "{}/")
        case "hf":
            return _of_hugging_face(source)
    return Remote(source, file_name(source))


def _base(kind: str) -> str:
    default, variable = BASES[kind]
    return os.environ.get(variable, "").rstrip("/") or default


def _ask(method: str, url: str, source: str, headers: dict[str, str], follow: bool = True) -> requests.Response:
    import requests

    try:
        response = requests.request(method, url, headers=headers, timeout=TIMEOUT, allow_redirects=follow)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransientError(f"{redact(url)} does not answer: {reason(error)}") from None
    except (requests.RequestException, ValueError) as error:
        raise SourceError(f"{source}: {redact(url)} cannot be asked for: {reason(error)}") from None
    if follow or not response.is_redirect:
        check_status(response, url)
    return response


def _of_portal(source: str, kind: str, path: str) -> Remote:
    """ENCODE and 4DN run the same software: a file's page as JSON states ``href`` and ``md5sum``."""
    match = accession(source)
    assert match is not None, "checked by check_source"
    base = _base(kind)
    page = f"{base}/{path.format(match['name'])}"
    response = _ask("GET", page + "?format=json", source, {"Accept": "application/json"})
    try:
        about: Any = response.json()
        # 4DN's copy in the open-data bucket takes no account; the portal's own download does.
        url = urljoin(base + "/", about.get("open_data_url") or about["href"])
        digests = {"md5": about["md5sum"].lower()} if about.get("md5sum") else {}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SourceError(f"{source}: {page} does not say where the file is (no href)") from None
    return Remote(url, file_name(url), digests)


def _of_hugging_face(source: str) -> Remote:
    """The hub answers with the sha256 of a large file, or the git blob id of a small one, as its ETag."""
    match = accession(source)
    assert match is not None, "checked by check_source"
    url = f"{_base('hf')}/datasets/{match['name']}/resolve/{match['revision'] or 'main'}/{quote(match['path'])}"
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for _ in range(4):
        response = _ask("HEAD", url, source, {**headers, "Accept-Encoding": "identity"}, follow=False)
        onward = response.headers.get("Location", "")
        if not onward.startswith("/"):  # to the storage, or no redirect at all
            break
        url = urljoin(url, onward)  # the dataset was renamed
    found = response.headers
    tag = (found.get("X-Linked-ETag") or found.get("ETag") or "").removeprefix("W/").strip('"').lower()
    algorithm = {64: "sha256", 40: "git"}.get(len(tag)) if re.fullmatch("[0-9a-f]+", tag) else None
    return Remote(url, file_name(source), {algorithm: tag} if algorithm else {}, headers)
