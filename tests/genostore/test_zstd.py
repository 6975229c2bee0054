"""Our decoder gives what zstd's own library gives, and takes no harm from frames that are none."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from genostore.entropy import UNSUPPORTED
from genostore.machine import word
from genostore.zstd import PADDING, decode, workspace

Bytes = NDArray[np.uint8]
CANARY = 0xA5


@numba.njit
def _decode(frame: int, length: int, to: int, size: int, wanted: int, work: Bytes) -> int:
    return decode(frame, length, to, size, wanted, word(work.ctypes.data))


def decoded(frame: bytes, size: int, wanted: int | None = None) -> tuple[int, Bytes]:
    """Decode between canaries; give the result and the values."""
    source = np.full(len(frame) + 2 * PADDING, CANARY, np.uint8)
    source[PADDING : PADDING + len(frame)] = np.frombuffer(frame, np.uint8)
    target = np.full(size + 2 * PADDING, CANARY, np.uint8)
    done = _decode(
        source.ctypes.data + PADDING,
        len(frame),
        target.ctypes.data + PADDING,
        size,
        size if wanted is None else wanted,
        workspace(size),
    )
    assert (target[:PADDING] == CANARY).all()
    assert (target[PADDING + size :] == CANARY).all()
    return done, target[PADDING : PADDING + size]


@st.composite
def contents(draw: st.DrawFn) -> Bytes:
    """Runs as tracks have them, patterns, counts, noise, and mixtures of them."""
    parts: list[Bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        n = draw(st.integers(1, 300))
        kind = draw(st.sampled_from(["runs", "counts", "half", "bytes", "noise", "pattern", "zeros"]))
        if kind == "runs":
            values = rng.gamma(0.5, 4.0, n).astype(np.float32)
        elif kind == "counts":
            values = rng.poisson(3, n).astype(np.float32)
        elif kind == "half":
            values = rng.normal(size=n).astype(np.float16)
        elif kind == "bytes":
            values = rng.integers(0, 5, n).astype(np.uint8)
        elif kind == "noise":
            parts.append(rng.integers(0, 256, n * 4).astype(np.uint8))
            continue
        elif kind == "pattern":
            parts.append(np.resize(rng.integers(0, 256, draw(st.integers(1, 70))).astype(np.uint8), n * 8))
            continue
        else:
            parts.append(np.zeros(n * 10, np.uint8))
            continue
        parts.append(np.repeat(values, rng.geometric(1 / draw(st.integers(1, 60)), n)).view(np.uint8))
    return np.concatenate(parts)


@settings(max_examples=150, deadline=None)
@given(content=contents(), level=st.sampled_from([-5, -1, 1, 2, 3, 6, 12, 19]), checksum=st.booleans(), data=st.data())
def test_values_equal_the_librarys(content: Bytes, level: int, checksum: bool, data: st.DataObject) -> None:
    frame = Zstd(level, checksum).encode(content)
    done, values = decoded(frame, content.size)
    assert done in (0, UNSUPPORTED)
    if done == 0:
        np.testing.assert_array_equal(values, content)
        wanted = data.draw(st.integers(0, content.size))
        done, values = decoded(frame, content.size, wanted)
        assert done == 0
        np.testing.assert_array_equal(values[:wanted], content[:wanted])


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("runs", [8, 23, 200])
def test_tracks_are_not_left_to_the_library(level: int, runs: int) -> None:
    rng = np.random.default_rng(runs)
    values = np.repeat(np.round(rng.gamma(0.5, 4.0, 40_000 // runs), 3).astype(np.float32), runs)
    for chunk in np.split(values[: values.size // 4_096 * 4_096], values.size // 4_096):
        done, got = decoded(Zstd(level).encode(chunk), chunk.nbytes)
        assert done == 0
        np.testing.assert_array_equal(got.view(np.float32), chunk)


@pytest.mark.parametrize("level", [1, 3, 6, 12])
def test_frames_of_several_blocks(level: int) -> None:
    """Blocks use the tables and offsets of those before them."""
    rng = np.random.default_rng(level)
    runs = np.repeat(rng.poisson(2, 60_000).astype(np.float32), rng.geometric(0.2, 60_000)).view(np.uint8)
    content = np.concatenate([runs, runs[:200_000], rng.integers(0, 256, 150_000).astype(np.uint8), runs])
    done, values = decoded(Zstd(level).encode(content), content.size)
    assert done == 0
    np.testing.assert_array_equal(values, content)


@settings(max_examples=200, deadline=None)
@given(content=contents(), data=st.data())
def test_a_damaged_frame_harms_nothing(content: Bytes, data: st.DataObject) -> None:
    """Whatever a frame says, reads stay near it, writes within their place, and the end comes."""
    frame = bytearray(Zstd(data.draw(st.sampled_from([1, 3, 12]))).encode(content))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    decoded(bytes(frame), content.size)
    decoded(bytes(frame[:cut]), content.size)
    decoded(bytes(frame), data.draw(st.integers(1, 2 * content.size)))


def test_what_is_no_frame_or_another_length_is_refused() -> None:
    content = np.repeat(np.arange(100, dtype=np.float32), 9).view(np.uint8)
    frame = Zstd(1).encode(content)
    assert decoded(frame, content.size)[0] == 0
    assert decoded(frame, content.size - 4)[0] < 0
    assert decoded(frame, content.size + 4)[0] < 0
    assert decoded(frame[:-1], content.size)[0] < 0
    assert decoded(frame + b"\0", content.size)[0] < 0
    assert decoded(b"", content.size)[0] < 0
    assert decoded(bytes(len(frame)), content.size)[0] < 0
