"""The command line as tests use it: in process, or as a process of its own."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ttbr.cli import main


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one line on standard error of a command that exits with 2 and prints nothing else."""
        assert self.status == 2, self
        assert self.out == "", self.out
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("ttbr"), self.err
        return self.err.rstrip("\n")


def ttbr(*words: object) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            status = stop.code if isinstance(stop.code, int) else 1
    return Result(status, out.getvalue(), err.getvalue())


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as ``python -m ttbr``."""
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60} | options
    command = [sys.executable, "-m", "ttbr", *map(str, words)]
    return subprocess.run(command, check=False, **settings)
