"""Faults of a translation, and their codes in PAR_EL1 and ESR_ELx.

`STATUS` is the fault status code table (ESR_ELx.DFSC and IFSC, PAR_EL1.FST), Arm ARM D24.2.40
(ESR_EL1) and D24.2.115 (PAR_EL1).
"""

from enum import Enum

from ttbr.arch.bits import bits
from ttbr.errors import InvalidError
from ttbr.record import record

__all__ = ["Fault", "FaultKind", "STATUS", "fault_of_par", "fault_of_status", "status_code"]


class FaultKind(Enum):
    """Why a translation failed; the value is the name that the Arm ARM uses."""

    ADDRESS_SIZE = "Address size fault"
    TRANSLATION = "Translation fault"
    ACCESS_FLAG = "Access flag fault"
    PERMISSION = "Permission fault"
    EXTERNAL_ABORT = "Synchronous External abort on translation table walk"
    PARITY = "Synchronous parity or ECC error on translation table walk"
    TLB_CONFLICT = "TLB conflict abort"


# kind -> (code of level 0, code of level -1). Levels 0 to 3 are the code plus the level; level -1
# exists with FEAT_LPA2 only and has no leaf, hence no access flag or permission fault.
_BY_LEVEL: dict[FaultKind, tuple[int, int | None]] = {
    FaultKind.ADDRESS_SIZE: (0b000000, 0b101001),
    FaultKind.TRANSLATION: (0b000100, 0b101011),
    FaultKind.ACCESS_FLAG: (0b001000, None),
    FaultKind.PERMISSION: (0b001100, None),
    FaultKind.EXTERNAL_ABORT: (0b010100, 0b010011),
    FaultKind.PARITY: (0b011100, 0b011011),
}


def _status_table() -> dict[tuple[FaultKind, int | None], int]:
    table: dict[tuple[FaultKind, int | None], int] = {(FaultKind.TLB_CONFLICT, None): 0b110000}
    for kind, (level0, minus1) in _BY_LEVEL.items():
        for level in range(4):
            table[kind, level] = level0 + level
        if minus1 is not None:
            table[kind, -1] = minus1
    return table


STATUS = _status_table()
_KIND = {code: key for key, code in STATUS.items()}


def status_code(kind: FaultKind, level: int | None) -> int:
    """The 6-bit fault status code; `InvalidError` for a pair that the architecture lacks."""
    code = STATUS.get((kind, level))
    if code is None:
        raise InvalidError(f"{kind.value} has no level {level}")
    return code


@record
class Fault:
    """A translation that failed: an answer, not an error.

    `level` is the lookup level (-1 to 3), `stage` 1 or 2, `s1ptw` that stage 2 failed for a
    descriptor fetch of stage 1. `va` is the address asked for (of a stage 2 walk alone: the IPA),
    `ipa` the address that stage 2 refused. `reason` says in a few words which check failed, and
    `steps` are the descriptors read up to there (`ttbr.walk.Step`).
    """

    kind: FaultKind
    level: int | None
    va: int = 0
    stage: int = 1
    s1ptw: bool = False
    ipa: int | None = None
    reason: str = ""
    steps: tuple[object, ...] = ()

    @property
    def status(self) -> int:
        """The fault status code, as in ESR_ELx.DFSC/IFSC and PAR_EL1.FST."""
        return status_code(self.kind, self.level)

    def par(self) -> int:
        """PAR_EL1 after an AT instruction: F[0]=1, FST[6:1], PTW[8], S[9], RES1[11]."""
        return 1 | self.status << 1 | self.s1ptw << 8 | (self.stage == 2) << 9 | 1 << 11

    def __str__(self) -> str:
        where = "" if self.level is None else f", level {self.level}"
        stage = "" if self.stage == 1 else ", stage 2"
        walk = " on a stage 1 table walk" if self.s1ptw else ""
        return f"{self.kind.value}{where}{stage}{walk}"


def fault_of_status(status: int, va: int = 0, stage: int = 1, s1ptw: bool = False) -> Fault:
    """The fault of a status code; `InvalidError` for a code that no translation yields."""
    key = _KIND.get(status)
    if key is None:
        raise InvalidError(f"fault status code {status:#04x}: not a fault of a translation")
    return Fault(key[0], key[1], va, stage, s1ptw)


def fault_of_par(par: int, va: int = 0) -> Fault:
    """The fault that PAR_EL1 reports; `InvalidError` when F is 0."""
    if not par & 1:
        raise InvalidError(f"PAR_EL1 {par:#x}: F=0 is a translation that succeeded")
    return fault_of_status(bits(par, 6, 1), va, 2 if bits(par, 9, 9) else 1, bool(bits(par, 8, 8)))
