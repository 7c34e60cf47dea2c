"""Machine code on captured tables, replayed counterexamples, and a live target, from the CLI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captures import SHIPPED, Moment, directory
from emulate_tables import needs_qemu, needs_unicorn
from gnu import elf, needs_gnu
from ttbr.cli import main
from ttbr.switch.scenario import read_scenario

CODE = directory() / "code" / "lin61-4k39"
BOOT = "lin61-4k39-512G-nvhe"
IMAGE = 0xFFFF_FFC0_0800_0000  # _text, without KASLR
SCENARIOS = Path(__file__).parent.parent / "examples" / "scenarios"
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


@pytest.mark.skipif(not CODE.is_dir(), reason="needs the machine code of the full captures")
def test_hyp_init_of_a_real_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    """The routine begins with its vector table and calls another: it starts at the captured PC.

    struct kvm_nvhe_init_params is not in the capture; its fields are what the registers show later.
    """
    moments = [Moment(directory() / BOOT / name) for name in ("20_do_hyp_init", "22_el2_mmu_on")]
    before, after = ({**m.state["core"], **m.state["sysregs"]} for m in moments)
    names = ("MAIR_EL2", "TCR_EL2", "TPIDR_EL2", "sp", "sp", "TTBR0_EL2", "HCR_EL2")
    fields = [*names, "VTTBR_EL2", "VTCR_EL2"]
    params, load = int(before["x1"], 0), 0x8000200000
    words = {params + 8 * n: int(after[name], 0) for n, name in enumerate(fields)}
    words[params + 8] &= ~(7 << 16)  # TCR_EL2.PS is filled in by the routine
    words[load + 0x1F2AA0] = int(after["x0"], 0)  # the literal with the HYP address of the vectors
    asked = ["--capture", str(moments[1].path / "tables.elf.gz")]
    asked += ["--regs", str(moments[0].path / "state.json")]
    for name, offset in (("__kvm_nvhe___kvm_hyp_init", 0), ("__kvm_nvhe____kvm_hyp_init", 0x7BC)):
        asked += ["--code", str(CODE / f"{name}.bin"), "--at", hex(load + 0x1F2000 + offset)]
    for at, word in words.items():
        asked += ["--word", f"{at:#x}={word:#x}"]
    host = int(before["ELR_EL2"], 0) & ~0xFFF
    asked += ["--reach", f"{host:#x}={host - IMAGE + load:#x}"]
    status, text, error = ask(capsys, "prove", *asked)
    assert (status, error) == (0, "")
    assert text.splitlines()[0].endswith("SAFE assuming {A-DSB}")
    status, _, error = ask(capsys, "prove", *asked, "--entry", "0x1000")
    assert (status, error) == (2, "ttbr prove: --entry 0x1000: not in the code at 0x80003f2000\n")


def test_what_speculation_may_reach(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A Device page in a Normal block is found where the scenario says that it is Device."""
    page = SCENARIOS / "S21-code-not-identity-mapped.toml"
    text = page.read_text()
    plain = ask(capsys, "prove", str(page), "--exposure")[1]
    assert "no Device memory is given" in plain
    found = ask(capsys, "prove", str(page), "--exposure", "--json")[1]
    assert "normal-over-device" not in {item["kind"] for item in json.loads(found)["exposure"]}
    target = read_scenario(page).problem.intent[0].pa
    (tmp_path / "device.toml").write_text(f"{text}\n[memory]\ndevice = [[{target}, 0x1000]]\n")
    words = ("prove", str(tmp_path / "device.toml"), "--exposure")
    assert "normal-over-device at" in ask(capsys, *words)[1]
    (item,) = json.loads(ask(capsys, *words, "--json")[1])["exposure"]
    assert (item["kind"], item["target"]) == ("normal-over-device", f"{target:#x}")


def test_a_scenario_on_standard_input() -> None:
    text = (SCENARIOS / "S16-tlbi-before-isb.toml").read_text()
    words = [sys.executable, "-m", "ttbr", "prove", "-"]
    found = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.startswith("standard input: UNSAFE\n FAULT at #5")
