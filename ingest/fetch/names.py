"""What a source is, told from its text alone: a local path, a URL, or an accession of a portal."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from genostore.errors import SourceError

URLS = ("http", "https", "ftp", "s3", "gs")

_SCHEME = re.compile(r"([A-Za-z0-9][A-Za-z0-9+.-]+):(?!:)")
_ACCESSIONS = {
    "encode": (re.compile(r"encode:(?P<name>ENCFF[0-9A-Z]{6})"), "encode:ENCFF414OGC (a file, not an experiment)"),
    "4dn": (re.compile(r"4dn:(?P<name>4DNF[0-9A-Z]{8})"), "4dn:4DNFITUOMFUQ (a file, not an experiment)"),
    "hf": (
        re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?/(?P<path>[^?#]*[^/?#])"),
        "hf:owner/dataset/path, or hf:owner/dataset@revision/path",
    ),
}


def at_home(path: str) -> Path:
    """Expand a leading ``~``; a path of a user who is not known stays as it is, and is told as a missing file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def scheme(source: str) -> str:
    """The scheme of a source.

    Parameters
    ----------
    source
        As a catalogue or a command line gives it.

    Returns
    -------
    str
        In lower case, whether known or not; empty for a local path.
    """
    match = _SCHEME.match(source)
    return match[1].lower() if match else ""


def accession(source: str) -> re.Match[str] | None:
    """The parts of a portal's accession (``name``, for hf also ``revision`` and ``path``), None for others."""
    kind = scheme(source)
    if kind not in _ACCESSIONS:
        return None
    return _ACCESSIONS[kind][0].fullmatch(kind + source[len(kind) :])


def check_source(source: str) -> None:
    """Refuse a source that could never be fetched.

    Parameters
    ----------
    source
        As a catalogue or a command line gives it; any local path is accepted.

    Raises
    ------
    SourceError
        If the scheme is unknown, a URL names no host or file, or an accession is malformed.
    """
    kind = scheme(source)
    if kind in _ACCESSIONS:
        if accession(source) is None:
            raise SourceError(f"{source!r} is no accession of a file; expected {_ACCESSIONS[kind][1]}")
    elif kind in URLS:
        try:
            parts = urlsplit(source)
            host = parts.hostname if parts.port is None or parts.port else None
        except ValueError as error:
            raise SourceError(f"{redact(source)!r} is no URL: {str(error).lower()}") from None
        if not host or not source[len(kind) :].startswith("://"):
            raise SourceError(f"{redact(source)!r} is no URL; expected {kind}://host/path/file")
        if not file_name(source):
            raise SourceError(f"{redact(source)!r} names no file; end it with #name.bw to say what it is")
    elif kind:
        known = ", ".join(f"{name}:" for name in (*URLS, *_ACCESSIONS))
        raise SourceError(f"unknown scheme {kind + ':'!r} in {redact(source)!r}; expected {known} or a path (./...)")


def states_checksum(source: str) -> bool:
    """Say whether whoever publishes the source states its checksum, so that none has to be given.

    True of the accessions of ENCODE, 4DN and Hugging Face.
    """
    return scheme(source) in _ACCESSIONS


def portal_accession(source: str) -> str | None:
    """The accession in ``encode:`` and ``4dn:`` sources; None for any other."""
    match = accession(source) if scheme(source) in ("encode", "4dn") else None
    return match["name"] if match else None


def file_name(source: str) -> str:
    """The name of the file that a path or URL leads to, for a cache and for provenance.

    Parameters
    ----------
    source
        A path, a URL (whose ``#name`` counts before its path) or an ``hf:`` accession.

    Returns
    -------
    str
        Without folders, query or anything secret; empty if there is none.
    """
    kind = scheme(source)
    if kind in URLS:
        parts = urlsplit(source)
        name = unquote(parts.fragment or parts.path.rpartition("/")[2])
    else:
        match = accession(source)
        name = (match.groupdict().get("path") or match["name"]) if match else source
    name = PurePosixPath(name.replace("\\", "/")).name if kind else PurePosixPath(name).name
    return "" if name in ("", ".", "..") else re.sub(r"[\x00-\x1f\x7f]", "_", name)


def redact(source: str) -> str:
    """A source without what may be secret: user and password, query and fragment of a URL.

    Parameters
    ----------
    source
        Any source.

    Returns
    -------
    str
        Fit for messages and records.
    """
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return source.partition("://")[0] + "://..."
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
