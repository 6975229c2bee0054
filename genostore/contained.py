"""Keep a program's crash from going unexplained: the work runs in a child, and its parent says what became of it.

The libraries that decode files of biology are native code, and a damaged file may end the process in one of them. The
child notes which file it reads in a page that both share; the parent reads it when the child is dead.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable

_SIZE = 4_096
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_page: mmap.mmap | None = None


def note(path: str) -> None:
    """Say which file native code is about to read; costs a copy of the name where someone watches, else nothing."""
    if _page is not None:
        text = os.fsencode(path)[: _SIZE - 2]
        _page[: len(text) + 2] = len(text).to_bytes(2, "little") + text


def contained(work: Callable[[], None]) -> None:
    """Run a program's work in a child process and end as it ended; a crash is one message that names the file.

    Signals that are meant for the program reach the child, and the child dies with its parent. Where the system is
    not Linux the work runs here.
    """
    global _page
    if sys.platform != "linux":
        work()
        return
    _page = mmap.mmap(-1, _SIZE)
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *_PASSED_ON})
        if os.getppid() == parent:
            work()
        sys.exit(0)
    status = _wait(child)
    if os.WIFSIGNALED(status):
        _explain(os.WTERMSIG(status))
    sys.exit(os.waitstatus_to_exitcode(status))


def _wait(child: int) -> int:
    """Wait for the child, passing on what someone sends to this process alone (a terminal reaches both)."""
    while True:
        got = signal.sigwaitinfo({signal.SIGCHLD, *_PASSED_ON})
        if got.si_signo != signal.SIGCHLD and got.si_code <= 0:
            os.kill(child, got.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _explain(number: int) -> None:
    assert _page is not None
    size = int.from_bytes(_page[:2], "little")
    file = os.fsdecode(_page[2 : 2 + size])
    name = signal.Signals(number).name
    if number in _CRASHES:
        where = (
            f"{file}: the library that reads this file crashed ({name})" if file else f"the program crashed ({name})"
        )
        advice = "it is damaged, so fetch it again or leave it out" if file else "please report it"
        print(f"error: {where}; {advice}. What is done is kept", file=sys.stderr)
        sys.exit(1)
    if number == signal.SIGKILL:
        print("error: killed, as systems do when memory runs out; what is done is kept", file=sys.stderr)
    sys.exit(128 + number)
