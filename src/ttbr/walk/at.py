"""The AT instructions: the same walk, asked as the CPU would be, answered as PAR_EL1."""

from collections.abc import Mapping as MappingType

from ttbr.arch.attributes import PR, PW, UR, UW
from ttbr.arch.faults import Fault
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, EL2, EL3, EL20, Regime, regime_of
from ttbr.errors import InvalidError
from ttbr.memory.protocol import Memory
from ttbr.record import record
from ttbr.walk.translate import Access, Mapping, translate

__all__ = ["AT_OPERATIONS", "AtOperation", "address_translate", "at_regime"]


@record
class AtOperation:
    """`level` is the exception level asked about, `both` stages 1 and 2, `pan` heeds PSTATE.PAN."""

    level: int
    need: int
    both: bool = False
    pan: bool = False


AT_OPERATIONS: dict[str, AtOperation] = {
    "S1E1R": AtOperation(1, PR),
    "S1E1W": AtOperation(1, PW),
    "S1E1RP": AtOperation(1, PR, pan=True),
    "S1E1WP": AtOperation(1, PW, pan=True),
    "S1E0R": AtOperation(0, UR),
    "S1E0W": AtOperation(0, UW),
    "S12E1R": AtOperation(1, PR, both=True),
    "S12E1W": AtOperation(1, PW, both=True),
    "S12E0R": AtOperation(0, UR, both=True),
    "S12E0W": AtOperation(0, UW, both=True),
    "S1E2R": AtOperation(2, PR),
    "S1E2W": AtOperation(2, PW),
    "S1E3R": AtOperation(3, PR),
    "S1E3W": AtOperation(3, PW),
}


def at_regime(operation: str, registers: MappingType[str, int]) -> str:
    """The regime that AT *operation* asks about, from HCR_EL2.{E2H,TGE} (Arm ARM C5.4)."""
    if operation not in AT_OPERATIONS:
        raise InvalidError(f"AT {operation}: must be one of {', '.join(AT_OPERATIONS)}")
    level = AT_OPERATIONS[operation].level
    hcr = registers.get("HCR_EL2", 0)
    e2h, tge = bool(hcr >> 34 & 1), bool(hcr >> 27 & 1)
    if level == 3:
        return EL3
    if level == 2:
        return EL20 if e2h else EL2
    return EL20 if e2h and tge else EL1


def address_translate(
    memory: Memory,
    registers: MappingType[str, int],
    operation: str,
    va: int,
    *,
    pan: bool = False,
    features: Features | None = None,
    regime: Regime | None = None,
) -> Mapping | Fault:
    """What ``AT operation, va`` finds; ``.par()`` of the answer is PAR_EL1.

    *regime* may be given when it was already made from *registers* with `at_regime`. A synchronous
    External abort on the walk is returned as a fault, though a CPU takes it as an exception.
    """
    op = AT_OPERATIONS.get(operation)
    if op is None or regime is None:
        regime = regime_of(registers, at_regime(operation, registers), features)
        op = AT_OPERATIONS[operation]
    access = Access(operation, op.need, op.pan and pan)
    return translate(memory, regime, va, access, stage1_only=not op.both)
