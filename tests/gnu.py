"""The GNU assembler as an outside judge of assembly text."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ARCH = "armv9.3-a+memtag+profile+sme"


IN_CI = bool(os.environ.get("CI"))
needs_gnu = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-as") is None and not IN_CI,
    reason="no GNU assembler: apt-get install binutils-aarch64-linux-gnu",
)


def accepted(text: str) -> set[int]:
    """The numbers of the lines that GNU as has no error for."""
    with tempfile.TemporaryDirectory() as folder:
        errors = _run(text, Path(folder)).stderr
    wrong = {int(n) for n in re.findall(r":(\d+): Error", errors)}
    return set(range(1, text.count("\n") + 2)) - wrong


def unknown_mnemonics(text: str) -> set[str]:
    """The mnemonics that GNU as does not know."""
    with tempfile.TemporaryDirectory() as folder:
        errors = _run(text, Path(folder)).stderr
    return set(re.findall(r"unknown mnemonic `([^ ']+)", errors))


def image(text: str, base: int = 0) -> bytes:
    """The bytes that *text* assembles to, linked at *base*."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        elf(text, folder / "p", base)
        command = ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text"]
        subprocess.run([*command, str(folder / "p"), str(folder / "b")], check=True)
        return (folder / "b").read_bytes()


def elf(text: str, path: Path, base: int = 0) -> None:
    """Assemble and link *text* at *base* into an ELF file."""
    with tempfile.TemporaryDirectory() as name:
        result = _run(text, Path(name))
        assert result.returncode == 0, result.stderr
        command = ["aarch64-linux-gnu-ld", f"-Ttext={base:#x}", "-e0", "-o", str(path)]
        subprocess.run([*command, f"{name}/o"], check=True, capture_output=True)


def _run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("aarch64-linux-gnu-as") is None and not IN_CI:
        pytest.skip("no GNU assembler: apt-get install binutils-aarch64-linux-gnu")
    (folder / "s").write_text(text + "\n")
    command = ["aarch64-linux-gnu-as", f"-march={ARCH}", "-o", f"{folder}/o", f"{folder}/s"]
    return subprocess.run(command, capture_output=True, text=True, check=False)
