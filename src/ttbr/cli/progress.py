"""What a command is doing, on standard error, while it has printed nothing for a second.

Only where standard error is a terminal. A timer signal shows it from the main thread, so a command
pays nothing for it but `say`. What the command prints to a terminal erases it first.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

__all__ = ["Progress", "say"]

AFTER, EVERY = 1.0, 0.25  # seconds of silence before the line is shown, and between two of them
COLUMNS = 80

_doing: "str | Callable[[], str]" = ""


def say(what: "str | Callable[[], str]") -> None:
    """The command does *what* from now on: words, or a function that gives them when shown."""
    global _doing
    _doing = what


class _Stream:
    """*stream*: what is written to it on a terminal takes the place of the line of progress.

    No signal comes in a write: without a buffer (PYTHONUNBUFFERED) what it cuts off would be lost.
    """

    def __init__(self, stream: "TextIO", progress: "Progress") -> None:
        self._stream, self._progress = stream, progress
        self._shared = stream.isatty()

    def write(self, text: str) -> int:
        left = self._progress.stop(self._shared)
        written = self._stream.write(text)
        self._progress.wait(AFTER if self._shared else left)
        return written

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._stream, name)


class Progress:
    """A context manager: while it lasts, the progress of *command* is shown if it is slow.

    Without a timer signal (another thread than the main one, another system than POSIX) it shows
    nothing.
    """

    def __init__(self, command: str) -> None:
        import signal
        import time

        self._signal, self._now = signal, time.monotonic
        self._command, self._terminal = command, sys.stderr.fileno()
        self._begin = self._now()
        self._shown = 0  # characters on the line
        self._before: Any = None

    def __enter__(self) -> None:
        say("")
        self._streams = sys.stdout, sys.stderr
        try:
            self._before = self._signal.signal(self._signal.SIGALRM, self._tick)
        except (AttributeError, ValueError):
            return
        sys.stdout = _Stream(sys.stdout, self)
        sys.stderr = _Stream(sys.stderr, self)
        self.wait(AFTER)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.stop(hide=True)
            self._signal.signal(self._signal.SIGALRM, self._before)
        sys.stdout, sys.stderr = self._streams

    def wait(self, seconds: float) -> None:
        """Show the line in so many *seconds*."""
        self._signal.setitimer(self._signal.ITIMER_REAL, seconds or EVERY, EVERY)

    def stop(self, hide: bool) -> float:
        """Change nothing until `wait`, *hide* what is shown; the seconds that were left."""
        left, _ = self._signal.setitimer(self._signal.ITIMER_REAL, 0)
        if hide:
            self._put("")
        return left

    def _tick(self, *_: object) -> None:
        what = _doing if isinstance(_doing, str) else _doing()
        doing = f"{what}, " if what else ""
        self._put(f"ttbr {self._command}: {doing}{self._now() - self._begin:.0f} s")

    def _put(self, text: str) -> None:
        """Write *text* over the line that is shown."""
        text = text[: COLUMNS - 1]
        if not (text or self._shown):
            return
        line = "\r" + text.ljust(self._shown) + ("" if text else "\r")
        self._shown = len(text)
        try:
            # Past the stream's buffer, which the signal may have come upon half written.
            os.write(self._terminal, line.encode(errors="replace"))
        except OSError:  # the terminal has gone
            self._shown = 0
