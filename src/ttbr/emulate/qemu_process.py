"""A QEMU that leaves nothing behind: its RAM has no name, and it dies with this process.

RAM is an anonymous file (`os.memfd_create`), sparse, that QEMU opens through /dev/fd; sockets are
inherited as descriptors, so no port and no path is taken. The kernel kills QEMU when this process
ends in any way, Ctrl-C and SIGKILL included (Linux; elsewhere it is killed at exit).
"""

import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

from ttbr.errors import TtbrError

__all__ = ["QemuProcess", "sparse_file"]

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def sparse_file(size: int) -> int:
    """A file descriptor of *size* sparse bytes that no directory names; `TtbrError` if too many."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ttbr-ram")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.truncate(descriptor, size)
    except (OSError, OverflowError) as error:
        os.close(descriptor)
        why = getattr(error, "strerror", None) or str(error)
        raise TtbrError(f"{size} bytes of RAM: {why}") from None
    return descriptor


class QemuProcess:
    """A running *program* with *arguments*; it inherits *descriptors*."""

    def __init__(self, program: str, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=tuple(descriptors),
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except OSError as error:
            self._errors.close()
            raise TtbrError(f"{program}: {error.strerror}") from None
        atexit.register(self.close)

    @property
    def pid(self) -> int | None:
        """The process id; None once closed."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Kill QEMU and wait for its end. Safe to call twice."""
        atexit.unregister(self.close)
        if self._process is not None:
            # It leads a process group of its own: a wrapper script's child is in it too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._errors.close()

    def signal(self, number: int) -> None:
        """Send signal *number*, if QEMU still lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, wait: float = 0.0) -> str | None:
        """How QEMU died, with its last words; None when it still lives after *wait* seconds."""
        if self._process is None:
            return "is closed"
        try:
            status = self._process.wait(wait)
        except subprocess.TimeoutExpired:
            return None
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"died ({how}): {lines[-1] if lines else 'it said nothing'}"
