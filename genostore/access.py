"""How a remote store is reached: endpoint, region and credentials, from the usual environment.

Nothing here is logged, pickled or put into a message but where the credentials came from.
"""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from genostore.errors import FormatError

# Attempts after the first, and the pauses between them: enough for a store that asks to slow down, or restarts.
RETRIES = 8
FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=5)
TIMEOUT = timedelta(seconds=60)  # of a request that makes no progress
_TRUE = ("1", "true", "yes", "on")


def redact(url: str) -> str:
    """Take user, password, query and fragment out of a URL, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("://")[0] + "://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "..." if parts.query else "", ""))


def check_url(url: str, what: str) -> str:
    """Return a URL without credentials and query, and without a slash at its end.

    Raises
    ------
    FormatError
        If it carries any, which would end up in logs and records.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise FormatError(
            f"{what} {redact(url)} carries a user, a password or a query; give credentials by the environment "
            "(AWS_ACCESS_KEY_ID, ...), never in a URL"
        )
    return url.rstrip("/")


@dataclass(frozen=True)
class S3Access:
    """How to reach S3.

    Attributes
    ----------
    kind
        Where credentials come from: ``environment``, ``profile``, ``default`` (the chain of the libraries: container
        and instance roles), or ``anonymous``.
    endpoint, region
        None for Amazon's, and for what the library takes by itself.
    keys
        Of a profile, which obstore does not read by itself.
    """

    kind: str
    endpoint: str | None
    region: str | None
    profile: str
    keys: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<S3Access: {self.kind} credentials, endpoint {self.endpoint}, region {self.region}>"

    @classmethod
    def find(cls) -> S3Access:
        """Look into the environment and the profile files."""
        env, profile = os.environ, os.environ.get("AWS_PROFILE", "default")
        config = _section("AWS_CONFIG_FILE", "config", "default" if profile == "default" else f"profile {profile}")
        stored = config | _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
        endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or config.get("endpoint_url")
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or config.get("region")
        if endpoint:
            endpoint = check_url(endpoint, "AWS_ENDPOINT_URL")
        skip, keys = env.get("AWS_SKIP_SIGNATURE", "").lower(), {}
        roles = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if skip in _TRUE:
            kind = "anonymous"
        elif env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
            kind = "environment"
        elif "aws_access_key_id" in stored and "aws_secret_access_key" in stored:
            kind = "profile"
            names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
            keys = {ours: stored[theirs] for ours, theirs in names.items()}
            if "aws_session_token" in stored:
                keys["session_token"] = stored["aws_session_token"]
        elif skip or any(env.get(role) for role in (*roles, "AWS_WEB_IDENTITY_TOKEN_FILE")):
            kind = "default"
        else:
            kind = "anonymous"
        return cls(kind, endpoint, region or ("us-east-1" if endpoint else None), profile, tuple(keys.items()))

    def for_obstore(self) -> dict[str, Any]:
        """Give the options of ``obstore.store.S3Store``."""
        options: dict[str, Any] = {"skip_signature": self.kind == "anonymous", **dict(self.keys)}
        if self.endpoint:
            options["endpoint"] = self.endpoint
        if self.region:
            options["region"] = self.region
        return options

    def for_tensorstore(self) -> dict[str, Any]:
        """Give the members of TensorStore's ``s3`` specification."""
        credentials = {"type": self.kind}
        if self.kind == "profile":
            files = {"config_file": _file("AWS_CONFIG_FILE", "config")}
            files["credentials_file"] = _file("AWS_SHARED_CREDENTIALS_FILE", "credentials")
            credentials |= {"profile": self.profile, **{name: str(path) for name, path in files.items()}}
        spec: dict[str, Any] = {"aws_credentials": credentials}
        if self.endpoint:
            spec["endpoint"] = self.endpoint
        if self.region:
            spec["aws_region"] = self.region
        return spec


def _file(variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / ".aws" / name)


def _section(variable: str, name: str, section: str) -> dict[str, str]:
    """Read a section of one of the profile files; nothing where there is none."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(_file(variable, name))
        return dict(parser[section]) if section in parser else {}
    except (configparser.Error, UnicodeDecodeError):
        return {}


def client_options(url: str) -> dict[str, Any]:
    """Give obstore's options of HTTP for a server."""
    options: dict[str, Any] = {"timeout": TIMEOUT, "read_timeout": TIMEOUT}
    if urlsplit(url).scheme == "http":
        options["allow_http"] = True
    bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("AWS_CA_BUNDLE")
    if bundle:
        options["root_certificate"] = Path(bundle).read_bytes()
    return options


def retry_config() -> dict[str, Any]:
    """Give obstore's options of retries."""
    backoff = {"init_backoff": FIRST_PAUSE, "max_backoff": LONGEST_PAUSE, "base": 2}
    return {"backoff": backoff, "max_retries": RETRIES, "retry_timeout": 3 * TIMEOUT}


def tensorstore_resources() -> dict[str, Any]:
    """Give the resources of TensorStore's context that say how remote stores are asked."""
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(int(TIMEOUT.total_seconds())))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    if os.environ.get("AWS_CA_BUNDLE") and not os.environ.get("SSL_CERT_FILE"):  # which OpenSSL itself reads
        os.environ.setdefault("TENSORSTORE_CA_BUNDLE", os.environ["AWS_CA_BUNDLE"])
    retries = {
        "max_retries": RETRIES,
        "initial_delay": f"{int(FIRST_PAUSE.total_seconds() * 1000)}ms",
        "max_delay": f"{int(LONGEST_PAUSE.total_seconds())}s",
    }
    concurrency = {"limit": CONCURRENCY}
    return {
        f"{driver}_request_{what}": value
        for driver in ("s3", "gcs", "http")
        for what, value in (("retries", retries), ("concurrency", concurrency))
    }


CONCURRENCY = 64  # requests at once
