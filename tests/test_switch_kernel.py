"""The transition routines of a real kernel: its machine code, run on its captured tables.

Linux 6.1 with 4 KB pages and VA_BITS=39, with RAM at 512 GB and at 2 GB. The machine code is that
of the image, before run-time patching (no CnP, no pointer authentication); it is read from the
captures and never kept here.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from captures import Moment, directory
from ttbr.switch.problem import A_DSB, A_IC, Problem
from ttbr.switch.program import Dsb, Event, Isb, Msr
from ttbr.switch.prove import prove, prove_all
from ttbr.switch.scenario import Scenario, parse_scenario

CODE = directory() / "code" / "lin61-4k39"
BOOTS = ("lin61-4k39-512G-nvhe", "lin61-4k39-low-nvhe")
PAGE = 0x1000
IMAGE = 0xFFFF_FFC0_0800_0000  # _text, without KASLR
LINEAR = 0xFFFF_FF80_0000_0000  # PAGE_OFFSET

# Link-time addresses that the routines refer to and index.json does not have.
KASLR_EARLY_INIT = 0xFFFF_FFC0_082D_48E8
CLEAR_PAGE_TABLES, CREATE_KERNEL_MAPPING = 0xFFFF_FFC0_082D_63A8, 0xFFFF_FFC0_082D_6520
RELOCATE_KERNEL = 0xFFFF_FFC0_0820_03EC
PRIMARY_SWITCHED = 0xFFFF_FFC0_0820_04A0  # the literal with its address
HOST_VECTOR = 0xFFFF_FFC0_081F_6800  # __kvm_nvhe___kvm_hyp_host_vector
HOST_VECTOR_HYP = 0xFFFF_FFC0_081F_2AA0  # the literal with its HYP address
CPU_CAPS = 0xFFFF_FFC0_083E_B510

pytestmark = pytest.mark.skipif(
    not CODE.is_dir(), reason="needs the machine code of the full captures"
)


@dataclass(frozen=True)
class Kernel:
    """One boot. Addresses in its image are given as link-time addresses."""

    boot: str
    folder: Path  # for the routines that are put together

    def moment(self, name: str) -> Moment:
        return Moment(directory() / self.boot / name)

    def register(self, moment: str, name: str) -> int:
        state = self.moment(moment).state
        return int((state["core"] | state["sysregs"])[name], 0)

    @cached_property
    def load(self) -> int:
        return int(self.moment("02_enable_mmu_entry").state["kernel_load_pa"], 0)

    @cached_property
    def routines(self) -> dict[str, int]:
        rows = json.loads((CODE / "index.json").read_text())
        return {row["name"]: int(row["va"], 0) for row in rows}

    @property
    def reserved(self) -> int:
        """reserved_pg_dir, an empty table that not every moment has."""
        symbols = self.moment("02_enable_mmu_entry").state["symbols"]
        return self.pa(int(symbols["reserved_pg_dir"], 0))

    def pa(self, va: int) -> int:
        """Where an address of the image was loaded."""
        return va - IMAGE + self.load

    def at(self, routine: str) -> int:
        return self.pa(self.routines[routine])

    def code(self, *names: str) -> str:
        """A file of the routines, in the order of their addresses, at their distances."""
        low = self.routines[names[0]]
        data = bytearray()
        for name in names:
            data += bytes(self.routines[name] - low - len(data))
            data += (CODE / f"{name}.bin").read_bytes()
        path = self.folder / "code.bin"
        path.write_bytes(data)
        return str(path)


@pytest.fixture(params=BOOTS)
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(request.param, tmp_path)


def toml(field: object) -> str:
    if isinstance(field, dict):
        return f"{{ {', '.join(f'{toml_key(k)} = {toml(v)}' for k, v in field.items())} }}"
    if isinstance(field, list):
        return f"[{', '.join(map(toml, field))}]"
    return hex(field) if type(field) is int else json.dumps(field)


def toml_key(key: object) -> str:
    return hex(key) if isinstance(key, int) else str(key)


def scenario(
    kernel: Kernel, regime: str, tables: str, before: str, **sections: dict[str, object]
) -> Scenario:
    """A scenario on the tables of the moment *tables* and the registers of the moment *before*."""
    core, state = (
        kernel.moment(tables).path / "tables.elf.gz",
        kernel.moment(before).path / "state.json",
    )
    sections["memory"] = {"capture": str(core), **sections.get("memory", {})}
    sections["registers"] = {"capture": str(state), **sections.get("registers", {})}
    text = f'title = "{kernel.boot}"\nregime = "{regime}"\n'
    for name, fields in sections.items():
        text += f"[{name}]\n" + "".join(f"{key} = {toml(v)}\n" for key, v in fields.items())
    return parse_scenario(text, kernel.boot)


def page(va: int, pa: int | None = None, access: str = "rx", **more: object) -> dict[str, object]:
    """A region of the page of *va*."""
    found = {"va": va & -PAGE, "access": access, **more}
    return found if pa is None else found | {"pa": pa & -PAGE}


def written(found: Scenario, register: str) -> list[int | None]:
    """What the run wrote to a register."""
    events = [event for step in found.problem.steps for event in step.events]
    return [e.value for e in events if isinstance(e, Msr) and e.register == register]


def changed(problem: Problem, text: str, *events: Event) -> Problem:
    """The problem with other events at the first step that starts with *text*: none, to drop it."""
    steps = list(problem.steps)
    number = next(n for n, step in enumerate(steps) if step.text.startswith(text))
    steps[number] = replace(steps[number], events=events)
    return replace(problem, steps=tuple(steps))


def reasons(problem: Problem) -> set[tuple[str, str]]:
    """The findings, as kind and instruction."""
    steps = problem.steps
    return {
        (f.kind, steps[f.access.step].text if f.access.step < len(steps) else "end")
        for f in prove(problem).findings
    }


# --- EL1 ---------------------------------------------------------------------------------------


def enable_mmu(kernel: Kernel, **options: object) -> Scenario:
    """__enable_mmu by itself, from its entry; it returns to the ID map."""
    at = kernel.at("__enable_mmu")
    return scenario(
        kernel,
        "EL1&0",
        "03_before_sctlr_write",
        "02_enable_mmu_entry",
        region={"idmap": page(at)},
        program={"at": at, "code": kernel.code("__enable_mmu")},
        intent={"reach": "idmap"},
        options=options,
    )


def test_enable_mmu(kernel: Kernel) -> None:
    found = enable_mmu(kernel)
    assert found.trace.end.target == kernel.register("02_enable_mmu_entry", "x30")
    for register in ("TTBR0_EL1", "TTBR1_EL1"):
        assert written(found, register) == [kernel.register("04_mmu_just_on_idmap", register)]
    # It has no TLBI of its own, so by itself it is not safe.
    assert reasons(found.problem) == {("UNKNOWN-TLB", "isb"), ("UNKNOWN-TLB", "ic iallu")}
    after_tlbi = enable_mmu(kernel, unknown_tlb=False).problem
    assert prove_all(after_tlbi).verdict == "SAFE"
    assert not prove(changed(after_tlbi, "isb")).safe  # the one in load_ttbr1


def call(code: bytes, at: int, *targets: int) -> bytes:
    """*code* at *at* and, behind it, ``bl`` to all of *targets* but the last, then ``b`` to that."""
    for target in targets:
        op = 0x1400_0000 if target == targets[-1] else 0x9400_0000
        code += (op | (target - at - len(code) >> 2 & 0x3FF_FFFF)).to_bytes(4, "little")
    return code


def test_cpu_setup_and_primary_switch(kernel: Kernel) -> None:
    """primary_entry: ``bl __cpu_setup; b __primary_switch``, up to the branch to the kernel's VA.

    What fills init_pg_dir meanwhile is taken to have returned: the tables are those after it.
    """
    code, at = (
        kernel.code("__enable_mmu", "__primary_switch", "__cpu_setup"),
        kernel.at("__enable_mmu"),
    )
    data = Path(code).read_bytes()
    Path(code).write_bytes(call(data, at, kernel.at("__cpu_setup"), kernel.at("__primary_switch")))
    target = kernel.register("06_primary_switch_br", "x8")
    returns = [KASLR_EARLY_INIT, CLEAR_PAGE_TABLES, CREATE_KERNEL_MAPPING, RELOCATE_KERNEL]
    found = scenario(
        kernel,
        "EL1&0",
        "05_before_init_pg_dir",
        "02_enable_mmu_entry",
        region={"idmap": page(at), "text": page(target, kernel.pa(target))},
        memory={"words": {kernel.pa(PRIMARY_SWITCHED): target}},
        # Not written yet; the capture lacks ID_AA64PFR0_EL1 (Cortex-A57 TRM: no AMU).
        registers={"TCR_EL1": 0, "MAIR_EL1": 0, "ID_AA64PFR0_EL1": 0x2222},
        program={
            "at": at,
            "code": code,
            "entry": at + len(data),
            "returns": [hex(kernel.pa(va)) for va in returns],
        },
        intent={"reach": ["idmap", "text"]},
    )
    assert found.trace.end.target == target
    for register in ("TCR_EL1", "MAIR_EL1", "TTBR0_EL1", "TTBR1_EL1"):
        assert written(found, register)[-1] == kernel.register("06_primary_switch_br", register)
    assert prove_all(found.problem).verdict == "SAFE"
    assert ("UNKNOWN-TLB", "isb") in reasons(changed(found.problem, "tlbi"))


def test_replace_ttbr1(kernel: Kernel) -> None:
    before = "08_replace_ttbr1_entry"
    at = kernel.at("idmap_cpu_replace_ttbr1")
    caller = kernel.register(before, "x30")
    found = scenario(
        kernel,
        "EL1&0",
        before,
        before,
        region={"idmap": page(at), "text": page(caller, kernel.pa(caller))},
        memory={"empty": [kernel.reserved]},
        program={"at": at, "code": kernel.code("idmap_cpu_replace_ttbr1")},
        intent={"reach": ["idmap", "text"]},
    )
    assert found.trace.end.target == caller
    now = kernel.register("10_replace_ttbr1_done", "TTBR1_EL1")
    assert written(found, "TTBR1_EL1") == [kernel.reserved, now]
    assert prove_all(found.problem).verdict == "SAFE"
    # init_pg_dir has blocks where swapper_pg_dir has pages.
    assert reasons(changed(found.problem, "tlbi")) == {("CONFLICT", "end")}
    assert reasons(changed(found.problem, "msr TTBR1_EL1, x3")) == {("CONFLICT", "end")}


def switch_mm(kernel: Kernel, asid: int, reserved: bool) -> Problem:
    """cpu_do_switch_mm from ASID 0x6e to the captured process, with *asid*.

    TTBR0_EL1 has the empty table (cpu_set_reserved_ttbr0, which cpu_switch_mm calls first), or
    still the table of another process, that has other memory at the same address.
    """
    before = "42_kernel_irq_from_user"
    va, at = kernel.routines["cpu_do_switch_mm"], kernel.at("cpu_do_switch_mm")
    back = kernel.register(before, "x30")
    mm = LINEAR + 0xA9_F000  # any page of the linear map serves
    ram = kernel.load & -(1 << 30)
    rows = [
        line.split()
        for line in (directory() / kernel.boot / "pagemap.txt").read_text().splitlines()
    ]
    frames = {int(row[0], 16): int(row[1], 16) & (1 << 55) - 1 for row in rows}
    user: dict[str, Any] = {"access": "r", "user": "rx", "not_global": True}
    words = {kernel.pa(CPU_CAPS): 0, ram + mm - LINEAR + 720: 1 << 24 | asid}  # mm->context.id
    return scenario(
        kernel,
        "EL1&0",
        before,
        before,
        region={
            "text": page(va, at),
            "caller": page(back, kernel.pa(back)),
            "caps": page(CPU_CAPS, kernel.pa(CPU_CAPS), "rw"),
            "mm": page(mm, ram + mm - LINEAR, "rw"),
            "user": page(0x40_0000, frames[0x40_0000] << 12, **user),
            "other": page(0x40_0000, ram + 0x3000_0000, **user),
        },
        table={"old": {"input_bits": 39, "map": ["other"]}},
        memory={"tables": ram + 0x3800_0000, "empty": [kernel.reserved], "words": words},
        registers={
            "x0": kernel.register(before, "TTBR0_EL1"),
            "x1": mm,
            "TTBR0_EL1": kernel.reserved if reserved else "old.root",
        },
        program={"at": va, "code": kernel.code("cpu_do_switch_mm")},
        intent={"reach": ["text", "caller", "caps", "mm"], "end": "user"},
    ).problem


def test_switch_mm(kernel: Kernel) -> None:
    problem = switch_mm(kernel, 0x70, reserved=True)
    assert problem.target == kernel.register("42_kernel_irq_from_user", "x30")
    assert prove_all(problem).verdict == "SAFE"
    # The ISB between the two TTBRs lets the old table be walked with the new ASID.
    assert ("WRONG-PA", "end") in reasons(switch_mm(kernel, 0x70, reserved=False))
    assert ("WRONG-PA", "end") in reasons(switch_mm(kernel, 0x6E, reserved=False))


# --- EL2 ---------------------------------------------------------------------------------------


def test_hyp_init(kernel: Kernel) -> None:
    """From the HVC at EL2 with the MMU off, through ___kvm_hyp_init, to the ERET to the host.

    The parameters are what the registers of the following moments show.
    """
    before, after = "20_do_hyp_init", "22_el2_mmu_on"
    names = ("__kvm_nvhe___kvm_hyp_init", "__kvm_nvhe____kvm_hyp_init")
    at = kernel.at(names[0])
    params, host = kernel.register(before, "x1"), kernel.register(before, "ELR_EL2")
    vectors = kernel.register(after, "x0")
    # struct kvm_nvhe_init_params; TCR_EL2.PS is filled in by the routine, the stack is not used.
    fields = [
        "MAIR_EL2",
        "TCR_EL2",
        "TPIDR_EL2",
        "sp",
        "sp",
        "TTBR0_EL2",
        "HCR_EL2",
        "VTTBR_EL2",
        "VTCR_EL2",
    ]
    words = {params + 8 * n: kernel.register(after, name) for n, name in enumerate(fields)}
    words[params + 8] &= ~(7 << 16)
    found = scenario(
        kernel,
        "EL2",
        after,
        before,
        region={
            "idmap": page(at),
            "params": page(params, access="rw"),
            "vectors": page(vectors, kernel.pa(HOST_VECTOR)),
            "host": page(host, kernel.pa(host)),
        },
        memory={"words": words | {kernel.pa(HOST_VECTOR_HYP): vectors}},
        program={"at": at, "code": kernel.code(*names), "entry": kernel.register(before, "pc")},
        intent={"reach": ["idmap", "params", "host"], "end": ["vectors"]},
    )
    assert found.trace.end.target == host
    for register in ("MAIR_EL2", "TCR_EL2", "TTBR0_EL2"):
        assert written(found, register) == [kernel.register(after, register)]
    proof = prove_all(found.problem)
    assert proof.verdict == "SAFE assuming {A-DSB}"
    assert set(proof.dropped[A_DSB].kinds) == {"UNKNOWN-TLB"}
    for text in ("isb", "tlbi alle2", "dsb sy"):
        assert not prove(changed(found.problem, text)).safe, text


def switch_pgd(kernel: Kernel, *, moved: bool) -> Problem:
    """__pkvm_init_switch_pgd from the captured HYP tables to new ones, back to a HYP address.

    The captured kernel is not protected and never runs it: the new tables are made here, with the
    ID map and the vectors as in the old ones. With *moved* they also map the page before the
    vectors, to other memory than the old ones do.
    """
    before = "22_el2_mmu_on"
    at = kernel.at("__kvm_nvhe___pkvm_init_switch_pgd")
    params, vectors = kernel.register("20_do_hyp_init", "x1"), kernel.register(before, "x0")
    new = kernel.load + 0x3000_0000
    return scenario(
        kernel,
        "EL2",
        before,
        before,
        region={
            "idmap": page(at),
            "params": page(params, access="rw"),
            "vectors": page(vectors, kernel.pa(HOST_VECTOR)),
            "moved": page(vectors - PAGE, kernel.pa(HOST_VECTOR) + (1 << 28)),
        },
        table={
            "new": {
                "map": ["idmap", "vectors", *["moved"] * moved],
                "input_bits": 64 - (kernel.register(before, "TCR_EL2") & 0x3F),
                "output_bits": 44,
            }
        },
        memory={"tables": new, "words": {params + 24: 0, params + 40: new}},
        registers={"x0": params, "x1": vectors},
        program={"at": at, "code": kernel.code("__kvm_nvhe___pkvm_init_switch_pgd")},
        intent={"reach": ["idmap", "params", "vectors"], "end": ["moved"] * moved},
    ).problem


def test_pkvm_switch_pgd(kernel: Kernel) -> None:
    """This release has no DSB and ISB before SCTLR_EL2.M=1: the old table may still be walked then.

    That is harmless only for what both tables map alike.
    """
    problem = switch_pgd(kernel, moved=False)
    proof = prove_all(problem)
    assert proof.verdict == "SAFE assuming {A-IC}"
    assert set(proof.dropped[A_IC].kinds) == {"CONFLICT"}
    moved = switch_pgd(kernel, moved=True)
    assert reasons(moved) == {("CONFLICT", "end"), ("WRONG-PA", "end")}
    for unsynchronized in (problem, moved):
        fixed = changed(unsynchronized, "mov sp, x0", Dsb("NSH"), Isb())
        assert prove_all(fixed).verdict == "SAFE"
