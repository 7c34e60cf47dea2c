"""What keeps an instruction from its effect: traps to EL2, controls of EL0, guarded pages.

A program that meets one goes on elsewhere, so the interpreter refuses it.
"""

from ttbr.switch.program import Instruction
from ttbr.switch.tlbi import tlbi_by_name

__all__ = [
    "EL0_TRAPS",
    "ID_NAMES",
    "READ_ONLY",
    "TRAPS",
    "el0_trap",
    "lands",
    "trap_of",
]


def lands(instruction: Instruction, branch: str) -> bool:
    """Whether an indirect branch may lead to *instruction* in a guarded page (FEAT_BTI)."""
    name = instruction.mnemonic
    if name in ("paciasp", "pacibsp"):
        return branch != "br"
    if name != "bti":
        return False
    kinds = str(instruction.operands[0]).lower() if instruction.operands else ""
    return {"blr": "c" in kinds, "br": "j" in kinds, "br x16": bool(kinds)}[branch]


# HCR_EL2 bits by what they trap from EL1 and EL0 to EL2 (the register's page).
TRAPS: dict[str, tuple[tuple[int, str], ...]] = {
    "msr": ((26, "TVM"),),
    "mrs": ((30, "TRVM"),),
    "mrs id": ((15, "TID0"), (16, "TID1"), (17, "TID2"), (18, "TID3")),
    "tlbi NSH": ((25, "TTLB"),),
    "tlbi ISH": ((25, "TTLB"), (54, "TTLBIS")),
    "tlbi OSH": ((25, "TTLB"), (55, "TTLBOS")),
    "dc sw": ((22, "TSW"),),
    "dc poc": ((23, "TPCP"),),
    "dc pou": ((24, "TPU"), (52, "TOCU")),
    "dc zva": ((28, "TDZ"),),
    "ic": ((24, "TPU"), (52, "TOCU")),
    "ic is": ((24, "TPU"), (50, "TICAB")),
    "at": ((44, "AT"),),
    "smc": ((19, "TSC"),),
    "hvc": ((29, "HCD"),),
    "wfi": ((13, "TWI"),),
    "wfe": ((14, "TWE"),),
}
_VM_REGISTERS = ("SCTLR", "TTBR0", "TTBR1", "TCR", "ESR", "FAR", "AFSR0", "AFSR1", "MAIR", "AMAIR")
_VM_NAMES = frozenset(f"{stem}_EL1" for stem in (*_VM_REGISTERS, "CONTEXTIDR"))


# SCTLR_ELx bits without which EL0 may not (the register's page).
EL0_TRAPS = {"uci": (26, "UCI"), "uct": (15, "UCT"), "dze": (14, "DZE"), "wfi": (16, "nTWI")}
EL0_TRAPS |= {"wfe": (18, "nTWE")}


def el0_trap(instruction: Instruction) -> str:
    """The row of `EL0_TRAPS` for *instruction*."""
    name, operands = instruction.mnemonic, [str(operand) for operand in instruction.operands]
    if name == "dc":
        return "dze" if operands[0] == "ZVA" else "uci"
    if name == "mrs":
        return "uct" if operands[1] == "CTR_EL0" else ""
    return "uci" if name == "ic" else name


def trap_of(instruction: Instruction) -> str:
    """The row of `TRAPS` for *instruction*."""
    name, operands = instruction.mnemonic, instruction.operands
    if name in ("msr", "mrs"):
        register = str(operands[0 if name == "msr" else 1])
        if register in _VM_NAMES:
            return name
        identity = register.startswith(("ID_", "MVFR")) or register in ID_NAMES
        return "mrs id" if name == "mrs" and identity else ""
    if name == "tlbi":
        op = tlbi_by_name(str(operands[0]))
        return f"tlbi {op.shareability}" if op is not None else ""
    if name == "dc":
        operation = str(operands[0])
        groups = {
            "ZVA": "dc zva",
            "CVAU": "dc pou",
            "ISW": "dc sw",
            "CSW": "dc sw",
            "CISW": "dc sw",
        }
        return groups.get(operation, "dc poc")
    if name == "ic":
        return "ic is" if str(operands[0]) == "IALLUIS" else "ic"
    return name


READ_ONLY = ("ID_", "MVFR", "MIDR_", "MPIDR_EL1", "DCZID_", "CURRENTEL", "ISR_", "RNDR", "RVBAR")
ID_NAMES = ("CTR_EL0", "CCSIDR_EL1", "CLIDR_EL1", "CSSELR_EL1", "REVIDR_EL1", "AIDR_EL1")
