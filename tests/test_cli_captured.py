"""Machine code on captured tables, replayed counterexamples, and a live target, from the CLI."""

import json
from pathlib import Path

import pytest

from captures import SHIPPED, directory
from emulate_tables import needs_qemu, needs_unicorn
from gnu import elf, needs_gnu
from ttbr.cli import main

CODE = directory() / "code" / "lin61-4k39"
BOOT = "lin61-4k39-512G-nvhe"
IDMAP = SHIPPED / BOOT / "04_mmu_just_on_idmap" / "tables.elf.gz"

ROUTINE = """
        .globl  flush
flush:  tlbi    vmalle1
        dsb     nsh
        isb
        ret
"""


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@needs_gnu
def test_a_symbol_of_an_elf_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    linked = tmp_path / "a.elf"
    elf(ROUTINE, linked, 0x8000400000)
    words = ["prove", "--elf", str(linked), "--symbol", "flush", "--capture", str(IDMAP)]
    status, text, error = ask(capsys, *words, "--set", "x30=0x8000400100")
    assert (status, error) == (0, "")
    assert text.startswith("flush: SAFE")
    status, _, error = ask(capsys, *words, "--set", "x30=0xffffffc008000000")
    assert status == 2
    assert "--reach 0xffffffc008000000=PA" in error
    status, _, error = ask(capsys, *words[:3], "--symbol", "other", "--capture", str(IDMAP))
    assert status == 2
    assert "no symbol other" in error


@pytest.mark.skipif(not CODE.is_dir(), reason="needs the machine code of the full captures")
@pytest.mark.parametrize(
    ("routine", "at", "moment", "options", "verdict"),
    [
        ("__enable_mmu", 0x8000400374, "02_enable_mmu_entry", ["--known-tlb"], "SAFE"),
        ("__enable_mmu", 0x8000400374, "02_enable_mmu_entry", [], "UNSAFE"),
        ("idmap_cpu_replace_ttbr1", 0x8000400540, "08_replace_ttbr1_entry", [], "SAFE"),
    ],
)
def test_a_routine_of_a_real_kernel(
    capsys: pytest.CaptureFixture[str],
    routine: str,
    at: int,
    moment: str,
    options: list[str],
    verdict: str,
) -> None:
    tables = directory() / BOOT / moment / "tables.elf.gz"
    words = ["--code", str(CODE / f"{routine}.bin"), "--at", hex(at), "--capture", str(tables)]
    # reserved_pg_dir is empty, and the capture leaves empty pages out.
    status, text, _ = ask(capsys, "prove", *words, "--empty", "0x80004c6000", *options)
    assert text.splitlines()[0].endswith(verdict)
    assert status == (verdict != "SAFE")
    if not options and verdict == "UNSAFE":
        assert "UNKNOWN-TLB" in text
        assert "insert tlbi vmalle1" in text


@needs_unicorn
def test_a_counterexample_is_replayed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHIPPED.parent.parent)
    (scenario,) = Path("examples/scenarios").glob("S20-*.toml")
    assert ask(capsys, "run", str(scenario))[0] == 0  # no emulator's own TLB shows it
    status, text, _ = ask(capsys, "run", str(scenario), "--hostile")
    assert status == 1
    assert "with our walk and a hostile TLB: died" in text
    assert "\nheld: 0x4000001000 -> Translation fault, level 2, from before the first" in text
    assert "not observed" not in text
    (unknown,) = Path("examples/scenarios").glob("S22-*.toml")
    run = json.loads(ask(capsys, "run", str(unknown), "--hostile", "--json")[1])
    assert run["death"]["decreed"]
    assert run["held"] == ["0x80001000 -> not known, from before the first instruction"]
    status, _, error = ask(capsys, "run", "examples/seattle/since-4.1.toml", "--hostile")
    assert status == 2
    assert "no counterexample" in error


@needs_qemu
def test_what_qemu_fetched_through_stale_entries_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHIPPED.parent.parent)
    status, text, _ = ask(capsys, "run", "examples/seattle/naive-switch.toml", "--on", "qemu")
    assert status == 0
    assert "relies on stale TLB entries" in text
    assert "msr TCR_EL2, x1" in text


def test_a_target_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = ask(capsys, "walk", "--gdb", "127.0.0.1:1", "0x0")
    assert status == 2
    assert len(error.splitlines()) == 1
    status, _, error = ask(capsys, "dump", "--gdb", "127.0.0.1:1", "--gdb", "127.0.0.1:2")
    assert status == 2
    assert "twice" in error
