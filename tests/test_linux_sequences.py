"""The switch sequences: assembled by GNU as, and held against the machine code of Linux 6.1."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ttbr.errors import UnsupportedError
from ttbr.linux.eras import KernelVersion, version
from ttbr.linux.sequences import SEQUENCES, Sequence, sequence
from ttbr.switch.assembly import assemble

CODE = (
    Path(os.environ.get("TTBR_CAPTURES", Path(__file__).parent.parent / "../shared/captures"))
    / "code/lin61-4k39"
)
ALL = [
    pytest.param(era.rule, id=f"{name}-{era.first}")
    for name, rows in SEQUENCES.items()
    for era in rows
]


@pytest.mark.parametrize("found", ALL)
def test_inputs_are_the_registers_that_are_read_first(found: Sequence) -> None:
    written: set[str] = set()
    read: set[str] = set()
    for line in found.lines:
        mnemonic, _, rest = line.partition(" ")
        names = re.findall(r"\bx\d+\b", rest)
        stores = mnemonic in ("mrs", "and")
        read |= set(names[1:] if stores else names) - written
        written |= {names[0]} if stores else set()
    assert read == set(found.inputs)


@pytest.mark.parametrize("found", ALL)
def test_the_proof_reads_them(found: Sequence) -> None:
    program = assemble(found.text, 0x80000000)
    assert len(program.instructions) == sum(not line.endswith(":") for line in found.lines)


@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-as"),
    reason="no GNU as: apt-get install binutils-aarch64-linux-gnu",
)
def test_gnu_as_takes_them(tmp_path: Path) -> None:
    text = "".join(
        f"// {name}\n{era.rule.text.replace('target', f'target_{name}_{n}'.replace('-', '_'))}"
        for name, rows in SEQUENCES.items()
        for n, era in enumerate(rows)
    )
    source = tmp_path / "all.s"
    source.write_text(text)
    subprocess.run(
        ["aarch64-linux-gnu-as", "-o", tmp_path / "all.o", source], check=True, capture_output=True
    )


RELEVANT = re.compile(
    r"(msr (?:ttbr\d|tcr|mair|sctlr|vbar)_el\d+|tlbi \w+|isb|dsb \w+|ic \w+|eret|ret|br)\b"
)


def _order(lines: list[str]) -> list[str]:
    """What of *lines* concerns translation, without operands."""
    found = (RELEVANT.match(re.sub(r"\s+", " ", line.strip())) for line in lines)
    return [match[1] for match in found if match]


@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-objdump"),
    reason="no GNU objdump: apt-get install binutils-aarch64-linux-gnu",
)
@pytest.mark.parametrize(
    ("routines", "name", "without"),
    [
        (["idmap_cpu_replace_ttbr1"], "replace-ttbr1", set()),
        (["cpu_do_resume"], "resume", set()),
        (["__kvm_nvhe____kvm_hyp_init"], "hyp-init", set()),
        (["__kvm_nvhe___pkvm_init_switch_pgd"], "pkvm-switch", {"ret", "br"}),
        (["cpu_soft_restart"], "kexec", set()),
        (["__cpu_setup", "__enable_mmu"], "enable", {"ret", "br"}),
    ],
)
def test_order_of_6_1(routines: list[str], name: str, without: set[str]) -> None:
    if not CODE.is_dir():
        pytest.skip(f"no machine code in {CODE}")
    code: list[str] = []
    for routine in routines:
        listing = subprocess.run(
            ["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64", "--no-addresses",
             "--no-show-raw-insn", CODE / f"{routine}.bin"],
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        order = _order(listing)
        # After MDSCR_EL1, before any translation register is written.
        if routine == "__cpu_setup":
            order.remove("isb")
        code += order
    ours = _order(list(sequence(name, version("6.1")).lines))
    assert [e for e in code if e not in without] == [e for e in ours if e not in without]


def test_a_release_without_the_routine() -> None:
    with pytest.raises(UnsupportedError, match=r"5\.12"):
        sequence("pkvm-switch", version("5.12"))


@pytest.mark.parametrize(
    ("name", "first"), [(n, e.first) for n, rows in SEQUENCES.items() for e in rows]
)
def test_an_invalidation_is_completed(name: str, first: KernelVersion) -> None:
    """After a TLBI a DSB comes before any write of SCTLR and before the end."""
    lines = sequence(name, first).lines
    for at, line in enumerate(lines):
        if line.startswith("tlbi"):
            rest = [later.split(",")[0] for later in lines[at + 1 :]]
            end = next((n for n, later in enumerate(rest) if "sctlr" in later), len(rest))
            done = any(later.startswith("dsb") for later in rest[:end])
            # pKVM turns the MMU on before the DSB until 6.11.
            assert done is not (name == "pkvm-switch" and str(first) == "5.13"), line
