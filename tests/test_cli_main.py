"""The command line as a whole: help, exit status, broken pipes, full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ttbr
from commands import process
from commands import ttbr as run
from trees import AF, BLOCK, Tree, el1_registers, tree_core
from ttbr.cli import COMMANDS, main, parser_of


def core(folder: Path) -> Path:
    """An image whose listing is longer than a pipe holds."""
    tree = Tree()
    tables = [tree.table({i: (i * 7 + n) << 21 | AF | BLOCK for i in range(512)}) for n in range(8)]
    root = tree.table({n: table | 3 for n, table in enumerate(tables)})
    path = folder / "core"
    path.write_bytes(tree_core(tree, el1_registers(root, T0SZ=25, EPD1=1)))
    return path


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"]])
def test_help(words: list[str]) -> None:
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    assert all(name in result.out and text in result.out for name, text in COMMANDS.items())
    assert all(len(line) <= 100 for line in result.out.splitlines())


def test_no_command_prints_the_usage_as_an_error() -> None:
    result = run()
    assert (result.status, result.out) == (2, "")
    assert result.err == run("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str) -> None:
    result = run(command, "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"usage: ttbr {command}")
    assert (parser_of(command).description or "").strip()
    for action in parser_of(command)._actions:
        assert action.help, action


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str) -> None:
    assert run(word).out == f"ttbr {ttbr.__version__}\n"


@pytest.mark.parametrize("word", ["wlak", "", "--walk", "WALK"])
def test_unknown_command(word: str) -> None:
    line = run(word).refusal
    assert f"no command {word!r}" in line
    assert all(name in line for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [["walk"], ["walk", "x"], ["dump"], ["decode"], ["info"], ["info", "x", "--frob"],
     ["dump", "x", "--level", "9"], ["walk", "x", "0", "--regime", "el9"]],
)  # fmt: skip
def test_bad_use_is_2(words: list[str]) -> None:
    line = run(*words).refusal
    assert line.startswith(f"ttbr {words[0]}: ")
    assert line.endswith(f"(see ttbr {words[0]} --help)")


def test_a_register_option_without_a_value(tmp_path: Path) -> None:
    assert "--tcr-el1" in run("walk", core(tmp_path), "0", "--tcr-el1").refusal
    assert "--tcr-el1" in run("walk", core(tmp_path), "0", "--tcr-el1", "--json").refusal


def test_as_a_process() -> None:
    result = process("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"ttbr {ttbr.__version__}\n",
        "",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("form", [[], ["--json"], ["--ptdump"]])
def test_a_reader_that_goes_away(tmp_path: Path, lines: int, form: list[str]) -> None:
    """``ttbr dump ... | head -n 1``: no word of complaint."""
    with subprocess.Popen(
        [sys.executable, "-m", "ttbr", "dump", core(tmp_path), *form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        for _ in range(lines):
            assert child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(30) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        for words in (["decode", "tcr_el1", "0x19"], ["dump", core(tmp_path)], ["--version"]):
            result = process(*words, stdout=full, stderr=subprocess.PIPE, capture_output=False)
            assert result.returncode == 2, words
            assert "No space left" in result.stderr
            assert result.stderr.count("\n") == 1


def test_closed_standard_output() -> None:
    run = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ttbr decode tcr_el2 0x80803519 >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ttbr.cli.decode.run", interrupted)
    assert main(["decode", "tcr_el1", "0"]) == 130


def test_no_colours_outside_a_terminal(tmp_path: Path) -> None:
    for words in (["dump", core(tmp_path)], ["walk", core(tmp_path), "0"], ["--help"]):
        result = process(*words)
        assert "\x1b" not in result.stdout + result.stderr


def test_help_imports_little() -> None:
    code = "import sys; from ttbr.cli import main; main(['--help']); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"argparse", "numpy", "ttbr.arch", "ttbr.memory"} & set(loaded)
