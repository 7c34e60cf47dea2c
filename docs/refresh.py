"""Rewrite the output of every console example in the documents; tests/test_docs.py compares it.

The commands of a console block run in one fresh directory. It has the checkout's ``examples`` and
each TOML block of the document that begins with ``# NAME.toml``, under that name. A command is
``ttbr ...``, perhaps with ``> FILE``, or ``echo $?``. A line ``...`` in an output stands for
lines that are not shown.
"""

import contextlib
import io
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ttbr.cli import main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w-]+\.toml)$", re.MULTILINE)
OMITTED = "..."


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document where it begins."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(command, output as shown) of each ``$`` line of a console block."""
        pieces = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        split = (piece.partition("\n") for piece in pieces)
        return [(command, output.rstrip("\n")) for command, _, output in split]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document."""
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def prepare(folder: Path, text: str) -> None:
    """Put into *folder* what the examples of the document *text* use."""
    (folder / "examples").symlink_to(ROOT / "examples")
    for block in blocks(text):
        name = NAMED.match(block.text)
        if block.language == "toml" and name is not None:
            (folder / name[1]).write_text(block.text)


def run(command: str, status: int = 0) -> tuple[str, int]:
    """(what a terminal shows, exit status) of *command*, the one before it having ended so."""
    if command == "echo $?":
        return str(status), 0
    words = shlex.split(command)
    file = None
    if words[-2:-1] == [">"]:
        *words, _, file = words
    if words[0] != "ttbr":
        raise ValueError(f"{command}: not a command of ttbr")
    shown, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out if file else shown), contextlib.redirect_stderr(shown):
        try:
            status = main(words[1:])
        except SystemExit as stop:  # argparse
            status = stop.code if isinstance(stop.code, int) else 1
    if file:
        Path(file).write_text(out.getvalue())
    return shown.getvalue().rstrip("\n"), status


def shortened(printed: str, shown: str) -> str:
    """*printed* without the lines that ``...`` stands for in *shown*."""
    lines, wanted = printed.split("\n"), shown.split("\n")
    if OMITTED not in wanted:
        return printed
    first = wanted.index(OMITTED)
    last = len(wanted) - first - 1
    return "\n".join([*lines[:first], OMITTED, *lines[len(lines) - last :]])


def renewed(block: Block, text: str) -> str:
    """The console *block* of the document *text* with its outputs made anew."""
    parts, status = [], 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), text)
        with contextlib.chdir(folder):
            for command, shown in block.commands:
                printed, status = run(command, status)
                output = shortened(printed, shown)
                parts.append(f"$ {command}\n" + (f"{output}\n\n" if output else ""))
    return "".join(parts).rstrip("\n") + "\n"


def refresh(path: Path) -> None:
    """Write the outputs in one document anew."""
    text = path.read_text()

    def again(found: re.Match[str]) -> str:
        if found[1] != "console":
            return found[0]
        return f"```console\n{renewed(Block(found[1], found[2], 0), text)}```"

    path.write_text(FENCE.sub(again, text))


if __name__ == "__main__":
    for document in DOCUMENTS:
        refresh(document)
