"""Compiled functions whose machine code is kept on disk, where several processes and threads look and store at once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.alone import alone

SOURCE = """
from genostore.compiled import njit

@njit(cache=True)
def more(x):
    return x + {more}

@njit(cache=True, nogil=True)
def answer(x):
    return more(x) * 2
"""
# Stops where numba has written the index of a new source and not yet the machine code that it names.
HELD = """
import sys
held = []
def hook(event, arguments):
    if event == "open" and not held and ".nbc.tmp" in str(arguments[0]):
        held.append(True)
        print("held", flush=True)
        sys.stdin.readline()
sys.addaudithook(hook)
import kernels
print(kernels.more(1))
"""
# Has compiled something before it asks, so that a wait of a second or two is not that for numba itself.
ASKS = """
import numba, kernels
numba.njit(lambda x: x + 1)(1)
print("asks", flush=True)
print(kernels.more(1), flush=True)
"""


def load(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("kernels", folder / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(code: str, folder: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])
    command = [sys.executable, "-B", "-c", code]
    return subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_no_process_is_given_the_code_of_an_older_source(tmp_path: Path) -> None:
    file = tmp_path / "kernels.py"
    file.write_text(SOURCE.format(more=1))
    os.utime(file, (1e9, 1e9))
    assert load(tmp_path).more(1) == 2
    file.write_text(SOURCE.format(more=100))
    with started(HELD, tmp_path) as writer:
        assert read(writer) == "held\n"
        with started(ASKS, tmp_path) as reader:
            assert read(reader) == "asks\n"
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(2)  # with numba's own njit it prints 2 and ends
            assert writer.communicate("\n", timeout=60)[0] == "101\n"
            assert reader.communicate(timeout=60)[0] == "101\n"


def test_threads_that_compile_at_once(tmp_path: Path) -> None:
    """Of a function that calls another: each waits for the other's turn, none for ever."""
    (tmp_path / "kernels.py").write_text(SOURCE.format(more=1))
    kernels = load(tmp_path)
    given = [kind(20) for kind in (np.float32, np.float64, np.int64, np.int32)]
    jobs = [(f, x) for x in given for f in (kernels.answer, kernels.more)] * 2
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = [pool.submit(f, x) for f, x in jobs]
        assert [job.result(60) for job in waiting] == [42 if f is kernels.answer else 21 for f, _ in jobs]


def test_a_forked_child_compiles_too(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(SOURCE.format(more=1))
    script = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        import kernels
        kernels.more(1)
        child = os.fork()
        if child == 0:
            print(kernels.answer(20), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    assert alone(script, tmp_path) == "42\n"


def test_a_cache_that_cannot_be_locked_is_used_without(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(SOURCE.format(more=1))
    kernels = load(tmp_path)
    (Path(kernels.more.stats.cache_path) / ".genostore-compile.lock").mkdir(parents=True)
    assert kernels.answer(20) == 42


def test_code_is_made_anew_when_a_file_that_it_calls_has_changed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "kernels.py").write_text(
        "from package.parts import more\nfrom genostore.compiled import njit\n\n"
        "@njit(cache=True)\ndef answer(x):\n    return more(x) * 2\n"
    )
    for step in (1, 100):
        (package / "parts.py").write_text(
            f"from numba.extending import register_jitable\n\n@register_jitable\ndef more(x):\n    return x + {step}\n"
        )
        with started("from package.kernels import answer; print(answer(1))", tmp_path) as process:
            assert read(process) == f"{2 * (1 + step)}\n"


PAIR = """from typing import NamedTuple
from genostore.compiled import njit
class Pair(NamedTuple):
    one: int
    other: int
@njit(cache=True)
def total(pair):
    return pair[0] + pair[1]
"""


def test_code_is_made_anew_when_what_is_kept_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(SOURCE.format(more=1))
    assert load(tmp_path).more(1) == 2
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(index.read_bytes()[:-20])
    assert load(tmp_path).more(1) == 2


def test_code_is_made_anew_when_it_was_kept_for_a_type_that_is_gone(tmp_path: Path) -> None:
    """As an upgrade may leave it; the function stays in its line."""
    file, ask = tmp_path / "kernels.py", "import kernels; print(kernels.total({}))"
    for source, argument in (
        (PAIR, "kernels.Pair(1, 2)"),
        (PAIR.replace("class Pair(NamedTuple)", "class Other(NamedTuple)"), "(1, 2)"),
    ):
        file.write_text(source)
        with started(ask.format(argument), tmp_path) as process:
            assert read(process) == "3\n"
