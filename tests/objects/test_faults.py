"""What goes wrong on the way to S3 is tried again, or told plainly; it is never a wrong value or half a track."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import genostore
from genostore import index
from genostore.errors import GenostoreError, RemoteError
from genostore.staging import create
from genostore.storage import Storage
from tests.genostore.conftest import Toy, write_positions

from .conftest import S3
from .proxy import Fault

PASSING = ("500", "503", "reset", "truncate", "late")


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_is_not_seen_by_a_reader(s3: S3, toy: Toy, kind: str) -> None:
    url = s3.upload(toy.path, "toy.zarr")
    expected = toy.open().track("A", "DNase").read()
    faults = [Fault(pattern, kind, 2) for pattern in (r"GET .*index.json", r"GET .*/c/0", r"GET .*DNase/zarr.json")]
    with s3.proxy.faulty(*faults, Fault(r"HEAD .*zarr.json", "500" if kind == "truncate" else kind, 1)):
        store = genostore.open(url)
        np.testing.assert_array_equal(store.track("A", "DNase").read(), expected)
    assert all(fault.seen for fault in faults)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("kind", "says"), [("503", "SlowDown"), ("reset", ""), ("truncate", "")])
def test_a_fault_that_stays_is_an_error_that_says_so(s3: S3, toy: Toy, kind: str, says: str) -> None:
    url = s3.upload(toy.path, "toy.zarr")
    track = genostore.open(url).track("A", "DNase")
    with (
        s3.proxy.faulty(Fault("GET .*/c/0", kind, None)),
        pytest.raises(RemoteError, match="gives no answer that can be used, after several") as caught,
    ):
        track.read()
    assert says in str(caught.value)
    with s3.proxy.faulty(Fault("GET", kind, None)), pytest.raises(RemoteError, match="gives no answer"):
        genostore.open(url)
    np.testing.assert_array_equal(track.read(), toy.open().track("A", "DNase").read())


def test_credentials_that_expire_are_told_at_once_and_not_shown(s3: S3, toy: Toy) -> None:
    url = s3.upload(toy.path, "toy.zarr")
    store = genostore.open(url)
    track = store.track("A", "DNase")
    for action, match in (
        (track.read, "GET .*/c/0"),
        (lambda: genostore.open(url), "GET"),
        (lambda: store.genes, "GET"),
    ):
        with (
            s3.proxy.faulty(Fault(match, "403", None)),
            s3.proxy.counted() as requests,
            pytest.raises(RemoteError, match=r"access is refused \(ExpiredToken\) with environment cred") as caught,
        ):
            action()
        assert len(requests) < 20
        assert "test-secret-key" not in str(caught.value)


def test_faults_while_a_track_is_written_leave_a_whole_track(s3: S3, toy: Toy) -> None:
    """Answers to conditional puts are lost too, after the server has done what was asked."""
    storage = create(s3.url("w.zarr"), toy.genome)
    kinds = itertools.cycle(PASSING[:3])
    faults = [
        Fault(p, k, 1)
        for p, k in zip(("PUT", r"PUT .*/c/0", r"PUT .*\.lock", "GET", "POST", "HEAD"), kinds, strict=False)
    ]
    faults += [Fault(r"PUT .*index.json", "late"), Fault(r"PUT .*\.lock", "late"), Fault(r"PUT .*records", "late")]
    with s3.proxy.faulty(*faults), storage.lock("tracks/A/x", "x"):
        write_positions(storage, toy.genome, "tracks/A/x", toy.tracks["A", "DNase"], np.nan, track("x"))
    store = genostore.open(storage.root)
    np.testing.assert_array_equal(store.track("A", "x").read(), toy.open().track("A", "DNase").read())
    assert index.rebuild(storage) == store.entries


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("match", [r"PUT .*staging.*/c/0", r"PUT .*tracks/A/x/c/0", r"PUT .*tracks/A/x/zarr.json"])
def test_a_write_that_fails_for_good_shows_nothing_and_is_done_later(s3: S3, toy: Toy, match: str) -> None:
    storage = create(s3.url("w.zarr"), toy.genome)

    def write() -> None:
        write_positions(storage, toy.genome, "tracks/A/x", toy.tracks["A", "DNase"], np.nan, track("x"))

    with s3.proxy.faulty(Fault(match, "503", None)), pytest.raises(GenostoreError, match="done is kept"):
        write()
    assert genostore.open(storage.root).entries == {}
    assert dict(index.scan(Storage.of(storage.root))) == {}
    write()
    np.testing.assert_array_equal(
        genostore.open(storage.root).track("A", "x").read(), toy.open().track("A", "DNase").read()
    )


def track(assay: str) -> dict[str, object]:
    return {"kind": "track", "cell_type": "A", "assay": assay, "role": None}
