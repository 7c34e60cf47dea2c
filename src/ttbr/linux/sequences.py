"""The switch sequences as assembly text: how Linux changes TTBR, T0SZ and the MMU, by release.

Values that depend on the plan come in general registers; `Sequence.inputs` says what each holds.
The texts keep the order of the register writes and barriers of the named releases, and only that:
what computes the values, and registers without effect on translation, are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ttbr.errors import UnsupportedError
from ttbr.linux.eras import Era, KernelVersion, era, row

__all__ = ["SEQUENCES", "Sequence", "sequence"]


@dataclass(frozen=True, slots=True)
class Sequence:
    """A routine in GNU assembly, run at exception level `el`.

    `inputs` maps a general register to the name of the value it holds: a register's name, with
    what it is for in front (``boot_ttbr0``), ``stack``, ``vectors``, or the address of code
    (``run_target``: where the code goes on at its run-time address, at the label ``target`` or
    behind its end). `mmu` says whether the MMU is on when the routine starts, `identity` whether it
    starts in the ID map, at VA = PA.
    """

    text: str
    inputs: Mapping[str, str] = field(hash=False)
    el: int
    mmu: bool
    identity: bool = True

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(line.strip() for line in self.text.splitlines())

    @property
    def target(self) -> int:
        """How many instructions come before the label ``target``, or all where there is none."""
        lines = self.lines
        return lines.index("target:") if "target:" in lines else len(lines)


def _lines(*parts: str) -> str:
    """Parts of ``;``-separated statements, one statement a line; labels stand alone."""
    statements = (line.strip() for part in parts for line in part.split(";"))
    return "".join(line + "\n" if line.endswith(":") else f"    {line}\n" for line in statements)


_FLUSH_EL2 = "tlbi alle2; dsb sy"
_HYP_INPUTS = {
    "x0": "boot_ttbr0",
    "x2": "stack",
    "x3": "vectors",
    "x4": "tcr",
    "x5": "mair",
    "x6": "sctlr",
}
_HYP_REGISTERS = "msr ttbr0_el2, x0; msr tcr_el2, x4; msr mair_el2, x5; isb"
_HYP_ON = f"{_HYP_REGISTERS}; {_FLUSH_EL2}; msr sctlr_el2, x6; isb"
_HYP_LEAVE = "mov sp, x2; msr vbar_el2, x3; eret"
_RUNTIME = {"x1": "run_ttbr0"}
_JUMP = {"x8": "run_target"}

# The root is replaced with the MMU on; what the old one left in the TLB goes after the ISB.
_HYP_ROOT = f"msr ttbr0_el2, x1; isb; {_FLUSH_EL2}"

_HYP_INIT = Sequence(_lines(_HYP_ON, _HYP_LEAVE), _HYP_INPUTS, 2, False)
_TRAMPOLINE = Sequence(
    _lines(_HYP_ON, "br x8; target:", _HYP_ROOT, _HYP_LEAVE),
    _HYP_INPUTS | _RUNTIME | _JUMP,
    2,
    False,
)
_DEDICATED = Sequence(_lines(_HYP_ON, _HYP_ROOT, _HYP_LEAVE), _HYP_INPUTS | _RUNTIME, 2, False)
# This one nobody shipped: its TLBI is complete before the MMU is on, whatever the CPU.
_LEVEL_SKIP = Sequence(
    _lines(
        f"{_HYP_REGISTERS}; {_FLUSH_EL2}; isb; msr sctlr_el2, x6; isb",
        "br x8; target:",
        f"msr tcr_el2, x7; isb; {_FLUSH_EL2}; isb",
        _HYP_LEAVE,
    ),
    _HYP_INPUTS | _JUMP | {"x7": "run_tcr"},
    2,
    False,
)


def _hyp_init_generic(stage2: str) -> Sequence:
    # Since 5.10 the routine is called from EL2 code and goes on at EL2.
    enable = "msr sctlr_el2, x6; isb"
    text = _lines(
        "mov sp, x2; msr mair_el2, x5; msr ttbr0_el2, x0; msr tcr_el2, x4; isb",
        f"tlbi alle2; tlbi {stage2}; dsb sy",
        enable,
        "msr vbar_el2, x3; ret",
    )
    return Sequence(text, _HYP_INPUTS, 2, False)


def _pkvm(before: str) -> Sequence:
    text = _lines(
        "mrs x3, sctlr_el2; and x4, x3, #~1; msr sctlr_el2, x4; isb; tlbi alle2",
        "msr ttbr0_el2, x0; mov sp, x1",
        *([before] if before else []),
        "msr sctlr_el2, x3; isb; ic iallu; dsb nsh; isb; br x2",
    )
    inputs = {"x0": "run_ttbr0", "x1": "stack", "x2": "run_target"}
    return Sequence(text, inputs, 2, True)


# The same with another T0SZ, which is legal while the MMU is off.
_MMU_OFF = Sequence(
    _lines(
        "mrs x3, sctlr_el2; and x4, x3, #~1; msr sctlr_el2, x4; isb; tlbi alle2",
        "msr ttbr0_el2, x0; msr tcr_el2, x5; mov sp, x1; dsb nsh; isb",
        "msr sctlr_el2, x3; isb; ic iallu; dsb nsh; isb; br x2",
    ),
    {
        "x0": "run_ttbr0",
        "x1": "stack",
        "x2": "run_target",
        "x5": "run_tcr",
    },
    2,
    True,
)

_ENTER_VHE = Sequence(
    _lines(
        "msr hcr_el2, x0; isb",
        "msr tcr_el1, x1; msr ttbr0_el1, x2; msr ttbr1_el1, x3; msr mair_el1, x4; isb",
        "tlbi vmalle1; dsb nsh; isb",
        "msr sctlr_el1, x5; isb; ic iallu; dsb nsh; isb; eret",
    ),
    {
        "x0": "vhe_hcr",
        "x1": "tcr",
        "x2": "idmap_ttbr0",
        "x3": "ttbr1",
        "x4": "mair",
        "x5": "sctlr",
    },
    2,
    False,
)


def _enable(flush: str) -> Sequence:
    text = _lines(
        flush,
        "msr mair_el1, x3; msr tcr_el1, x1; msr ttbr0_el1, x2; msr ttbr1_el1, x4; isb",
        "msr sctlr_el1, x5; isb; ic iallu; dsb nsh; isb; br x8",
    )
    inputs = {
        "x1": "tcr",
        "x2": "idmap_ttbr0",
        "x3": "mair",
        "x4": "ttbr1",
        "x5": "sctlr",
        "x8": "run_target",
    }
    return Sequence(text, inputs, 1, False)


_RESERVED = "msr ttbr0_el1, x0; isb"
_BROADCAST = "dsb ishst; tlbi vmalle1is; dsb ish; isb"
_LOCAL = "dsb nshst; tlbi vmalle1; dsb nsh; isb"
_SET_TCR = "msr tcr_el1, x1; isb"
_SET_TTBR0 = "msr ttbr0_el1, x2; isb"
# cpu_do_switch_mm with KPTI: the ASID is in TTBR1.
_SET_ASID = "msr ttbr1_el1, x3; isb"
_TO_MM = {"x0": "reserved_ttbr0", "x1": "tcr"}
_OF_IDMAP = {"x2": "idmap_ttbr0"}
_OF_PROCESS = {"x2": "process_ttbr0"}
_ASID = {"x3": "asid_ttbr1"}


def _el1(inputs: dict[str, str], *parts: str, identity: bool = False) -> Sequence:
    return Sequence(_lines(*parts), inputs, 1, True, identity)


def _resume(keep_t0sz: bool) -> Sequence:
    """cpu_do_resume up to 4.6: with the MMU off, the saved TCR as it is or with T0SZ put right."""
    text = _lines(
        "tlbi vmalle1; msr ttbr0_el1, x2; msr ttbr1_el1, x4",
        "bfi x1, x6, #0, #6; msr tcr_el1, x1" if keep_t0sz else "msr tcr_el1, x1",
        "dsb nsh; isb; msr sctlr_el1, x5; isb; br x8",
    )
    inputs = {
        "x1": "saved_tcr",
        "x2": "idmap_ttbr0",
        "x4": "ttbr1",
        "x5": "sctlr",
        "x8": "run_target",
    }
    return Sequence(text, inputs | ({"x6": "idmap_t0sz"} if keep_t0sz else {}), 1, False)


SEQUENCES: dict[str, tuple[Era[Sequence], ...]] = {
    "hyp-init-trampoline": (row("3.11", "4.7", _TRAMPOLINE, "arch/arm64/kvm/hyp-init.S, 3.18"),),
    "hyp-init": (
        row("4.1", "5.9", _HYP_INIT, "arch/arm64/kvm/hyp-init.S, 4.19"),
        row("5.10", "6.11", _hyp_init_generic("vmalls12e1"), "nvhe/hyp-init.S, 6.1"),
        row("6.12", "", _hyp_init_generic("alle1"), "nvhe/hyp-init.S, 6.12"),
    ),
    "hyp-init-dedicated": (row("3.11", "", _DEDICATED, "proposed in 2015, never merged"),),
    "hyp-init-level-skip": (row("3.11", "", _LEVEL_SKIP, "proposed in 2015, never merged"),),
    "mmu-off": (row("3.11", "", _MMU_OFF, "as pkvm-switch, with T0SZ"),),
    "pkvm-switch": (
        # The TLBI has no DSB before the MMU is on again.
        row("5.13", "6.11", _pkvm(""), "nvhe/hyp-init.S, 6.1"),
        row("6.12", "", _pkvm("dsb nsh; isb"), "nvhe/hyp-init.S, 6.12"),
    ),
    "enter-vhe": (row("5.12", "", _ENTER_VHE, "arch/arm64/kernel/hyp-stub.S, 6.1"),),
    "enable": (
        row("3.7", "4.3", _enable("tlbi vmalle1is; dsb ish"), "arch/arm64/mm/proc.S, 3.18"),
        row("4.4", "", _enable("tlbi vmalle1; dsb nsh"), "arch/arm64/mm/proc.S, 6.1"),
    ),
    "uninstall-idmap": (
        row("4.1", "4.3", _el1(_TO_MM, _RESERVED, _BROADCAST, _SET_TCR), "dd006da21646"),
        row("4.4", "4.5", _el1(_TO_MM, _RESERVED, _LOCAL, _SET_TCR), "arch/arm64/mm/mmu.c, 4.4"),
        row(
            "4.6",
            "4.15",
            _el1(_TO_MM | _OF_PROCESS, _RESERVED, _LOCAL, _SET_TCR, _RESERVED, _SET_TTBR0),
            "asm/mmu_context.h, 4.6",
        ),
        row(
            "4.16",
            "",
            _el1(
                _TO_MM | _OF_PROCESS | _ASID,
                *(_RESERVED, _LOCAL, _SET_TCR, _RESERVED, _SET_ASID, _SET_TTBR0),
            ),
            "asm/mmu_context.h, 4.19",
        ),
    ),
    "install-idmap": (
        row(
            "4.6",
            "4.15",
            _el1(_TO_MM | _OF_IDMAP, _RESERVED, _LOCAL, _SET_TCR, _RESERVED, _SET_TTBR0),
            "asm/mmu_context.h, 4.6",
        ),
        row(
            "4.16",
            "",
            _el1(
                _TO_MM | _OF_IDMAP | _ASID,
                *(_RESERVED, _LOCAL, _SET_TCR, _RESERVED, _SET_ASID, _SET_TTBR0),
            ),
            "asm/mmu_context.h, 4.19",
        ),
    ),
    "install-ttbr0": (
        row(
            "5.12",
            "",
            _el1(
                _TO_MM | {"x2": "copy_ttbr0"},
                _RESERVED,
                _LOCAL,
                _SET_TCR,
                _SET_TTBR0,
            ),
            "1401bef703a4",
        ),
    ),
    "replace-ttbr1": (
        row(
            "4.6",
            "",
            _el1(
                {"x0": "new_ttbr1", "x3": "reserved_ttbr1"},
                "msr ttbr1_el1, x3; isb; tlbi vmalle1; dsb nsh; isb; msr ttbr1_el1, x0; isb; ret",
                identity=True,
            ),
            "arch/arm64/mm/proc.S, 6.1",
        ),
    ),
    "resume": (
        row("3.7", "4.3", _resume(False), "arch/arm64/mm/proc.S, 3.18"),
        row("4.4", "4.6", _resume(True), "e13d918a19a7"),
        row(
            "4.7",
            "",
            _el1(
                {"x8": "saved_tcr", "x9": "vectors", "x12": "sctlr"},
                "mrs x7, tcr_el1; bfxil x8, x7, #0, #6; msr tcr_el1, x8; msr vbar_el1, x9",
                "msr sctlr_el1, x12; isb; ret",
            ),
            "arch/arm64/mm/proc.S, 6.1",
        ),
    ),
    "kexec": (
        row(
            "4.8",
            "",
            _el1(
                {"x8": "kexec_entry", "x12": "off_sctlr"},
                "msr sctlr_el1, x12; isb; br x8",
                identity=True,
            ),
            "arch/arm64/kernel/cpu-reset.S, 6.1",
        ),
    ),
    "replace-ttbr1-by-zero": (
        row(
            "4.7",
            "",
            _el1(
                {"x0": "zero_ttbr1", "x1": "new_ttbr1"},
                "msr ttbr1_el1, x0; isb; tlbi vmalle1; dsb nsh; msr ttbr1_el1, x1; isb; ret",
                identity=True,
            ),
            "break_before_make_ttbr_switch, asm/assembler.h",
        ),
    ),
    "lpa2-remap": (
        row(
            "6.9",
            "",
            _el1(
                {"x0": "off_sctlr", "x1": "tcr", "x2": "ttbr0", "x3": "sctlr"},
                "msr sctlr_el1, x0; isb; msr ttbr0_el1, x2; msr tcr_el1, x1; isb",
                "tlbi vmalle1; dsb nsh; isb; msr sctlr_el1, x3; isb; ret",
                identity=True,
            ),
            "arch/arm64/kernel/pi/map_kernel.c, 6.12",
        ),
    ),
}
"""The routines by name, each by release. What was proposed and never merged has one row."""


def sequence(name: str, release: KernelVersion) -> Sequence:
    """The routine *name* of *release*; `UnsupportedError` for a release that does not have it."""
    rules = SEQUENCES[name]
    if release < rules[0].first:
        raise UnsupportedError(f"{name}: since Linux {rules[0].first}, not in {release}")
    return era(rules, release).rule
