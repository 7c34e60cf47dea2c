"""Rewrite the output of every ``$ ttbr`` example in the documents (tests/test_docs.py checks them).

An example whose output ends in a line ``...`` keeps as many lines as it showed before.
"""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

from ttbr.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(^```console\n)(.*?)(^```)", re.MULTILINE | re.DOTALL)


def output_of(command: str) -> str:
    """What *command* prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(shlex.split(command)[1:])
    return printed.getvalue().rstrip("\n")


def renewed(match: re.Match[str]) -> str:
    """One console block with its outputs made anew."""
    pieces = re.split(r"^\$ ", match[2], flags=re.MULTILINE)[1:]
    parts = []
    for piece in pieces:
        command, _, old = piece.partition("\n")
        lines = output_of(command).splitlines()
        if old.rstrip("\n").endswith("\n..."):
            lines = [*lines[: len(old.rstrip("\n").splitlines()) - 1], "..."]
        parts.append("\n".join([f"$ {command}", *lines]))
    return match[1] + "\n\n".join(parts) + "\n" + match[3]


if __name__ == "__main__":
    os.chdir(ROOT)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        path.write_text(BLOCK.sub(renewed, path.read_text()))
