"""The line of progress: on a terminal only, erased by what is printed, and never in the output."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import process
from trees import AF, PAGE, RO, TABLE, Tree, el1_registers, tree_core

pty = pytest.importorskip("pty", reason="POSIX terminals")

# The command with a shorter patience, so that it need not be slow.
PROGRAM = """
import sys
from ttbr.cli import main, progress
progress.AFTER, progress.EVERY = 0.05, 0.02
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """51,200 leaves, no two of which merge: some 0.3 s of listing."""
    tree = Tree()
    last = tree.table({i: i << 12 | AF | PAGE | RO * (i % 2) for i in range(512)})
    middle = tree.table(dict.fromkeys(range(100), last | TABLE))
    root = tree.table({0: middle | TABLE})
    path = tmp_path / "core"
    path.write_bytes(tree_core(tree, el1_registers(root, T0SZ=25, EPD1=1)))
    return path


def on_terminal(*words: object, out: int | None = None) -> tuple[int, str, str]:
    """(exit status, standard output, what the terminal got) of a command with standard error on a
    terminal; with *out* standard output is not on it."""
    ours, theirs = pty.openpty()
    pieces: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, pieces))
    printed = b""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs if out is None else out,
        stderr=theirs,
    ) as child:
        os.close(theirs)
        reader.start()
        while child.stdout is not None and (piece := child.stdout.read(1 << 16)):
            printed += piece
            time.sleep(0.001)
    reader.join()
    os.close(ours)
    return child.returncode, printed.decode(), b"".join(pieces).decode()


def _read_all(terminal: int, pieces: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 65536):
            pieces.append(piece)


def seen(terminal: str) -> list[str]:
    """The lines that are left on a terminal."""
    lines = []
    for line in terminal.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines[:-1] if lines[-1] == "" else lines


@pytest.mark.parametrize("form", ["--summary", "--json"])
def test_what_prints_nothing_meanwhile_shows_it(core: Path, form: str) -> None:
    status, _, terminal = on_terminal("dump", core, form)
    assert status == 0
    counts = [int(found) for found in re.findall(r"ttbr dump: (\d+) tables listed, ", terminal)]
    assert counts
    assert counts == sorted(counts)
    assert seen(terminal) == process("dump", core, form).stdout.splitlines()


def test_a_listing_is_not_garbled(core: Path) -> None:
    _, _, terminal = on_terminal("dump", core)
    assert seen(terminal) == process("dump", core).stdout.splitlines()


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_listing_through_a_pipe(
    core: Path, form: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, also where Python does not buffer it and the reader is slow."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    status, printed, terminal = on_terminal("dump", core, *form, out=subprocess.PIPE)
    assert status == 0
    assert "tables listed" in terminal
    assert seen(terminal) in ([], [""])
    assert printed == process("dump", core, *form).stdout


def test_none_without_a_terminal(core: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, "dump", str(core), "--summary"]
    assert subprocess.run(words, capture_output=True, check=True).stderr == b""


def test_errors_follow_it_on_a_line_of_their_own(core: Path) -> None:
    status, _, terminal = on_terminal("dump", core, "--summary", "--regime", "el3")
    assert status == 2
    (line,) = seen(terminal)
    assert line.startswith("ttbr dump: ")


def verify_plan(folder: Path) -> list[object]:
    words = ["plan", "seattle", "--va-bits", "39", "--era", "4.1", "--json"]
    (plan := folder / "plan.json").write_text(process(*words).stdout)
    return ["verify", plan, "--on", "unicorn"]


def strategy(command: str) -> list[object]:
    kernel = ["--va-bits", "39", "--era", "4.1"]
    return [command, "--strategy", "merged-root", "--board", "seattle", *kernel]


@pytest.mark.parametrize(
    ("words", "doing"),
    [
        (verify_plan, "pro(ving|bing)|running"),
        (lambda _: [*strategy("prove"), "--barriers"], "proving|explaining"),
        (
            lambda _: ["plan", "seattle", "--va-bits", "39", "--era", "4.1", "--compare"],
            "comparing|planning|[0-9]",
        ),
    ],
    ids=["verify", "prove", "plan"],
)
def test_other_commands(tmp_path: Path, words: Callable[[Path], list[object]], doing: str) -> None:
    if words is verify_plan:
        pytest.importorskip("unicorn", reason="pip install 'ttbr[emulate]' to run on Unicorn")
    command = words(tmp_path)
    _, _, terminal = on_terminal(*command)
    assert re.search(rf"\rttbr {command[0]}: ({doing})", terminal), terminal
    assert seen(terminal) == process(*command).stdout.splitlines()
