"""Fault status codes and PAR_EL1, each code both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.arch.faults import (
    STATUS,
    Fault,
    FaultKind,
    fault_of_par,
    fault_of_status,
    status_code,
)
from ttbr.errors import InvalidError

# ESR_EL1.DFSC, VMSAv8-64, without the codes that no table walk of this model yields.
CODES = {
    0b000000: (FaultKind.ADDRESS_SIZE, 0), 0b000001: (FaultKind.ADDRESS_SIZE, 1),
    0b000010: (FaultKind.ADDRESS_SIZE, 2), 0b000011: (FaultKind.ADDRESS_SIZE, 3),
    0b000100: (FaultKind.TRANSLATION, 0), 0b000101: (FaultKind.TRANSLATION, 1),
    0b000110: (FaultKind.TRANSLATION, 2), 0b000111: (FaultKind.TRANSLATION, 3),
    0b001000: (FaultKind.ACCESS_FLAG, 0), 0b001001: (FaultKind.ACCESS_FLAG, 1),
    0b001010: (FaultKind.ACCESS_FLAG, 2), 0b001011: (FaultKind.ACCESS_FLAG, 3),
    0b001100: (FaultKind.PERMISSION, 0), 0b001101: (FaultKind.PERMISSION, 1),
    0b001110: (FaultKind.PERMISSION, 2), 0b001111: (FaultKind.PERMISSION, 3),
    0b010011: (FaultKind.EXTERNAL_ABORT, -1), 0b010100: (FaultKind.EXTERNAL_ABORT, 0),
    0b010101: (FaultKind.EXTERNAL_ABORT, 1), 0b010110: (FaultKind.EXTERNAL_ABORT, 2),
    0b010111: (FaultKind.EXTERNAL_ABORT, 3),
    0b011011: (FaultKind.PARITY, -1), 0b011100: (FaultKind.PARITY, 0),
    0b011101: (FaultKind.PARITY, 1), 0b011110: (FaultKind.PARITY, 2),
    0b011111: (FaultKind.PARITY, 3),
    0b101001: (FaultKind.ADDRESS_SIZE, -1), 0b101011: (FaultKind.TRANSLATION, -1),
    0b110000: (FaultKind.TLB_CONFLICT, None),
}  # fmt: skip
PAIRS = [(kind, level) for kind in FaultKind for level in (None, -2, -1, 0, 1, 2, 3, 4)]


@pytest.mark.parametrize("code", range(64))
def test_every_code_of_six_bits(code: int) -> None:
    if code not in CODES:
        with pytest.raises(InvalidError, match=f"{code:#04x}"):
            fault_of_status(code)
        return
    fault = fault_of_status(code, va=0x1000, stage=2, s1ptw=True)
    assert (fault.kind, fault.level) == CODES[code]
    assert (fault.va, fault.stage, fault.s1ptw) == (0x1000, 2, True)
    assert fault.status == code


@pytest.mark.parametrize(("kind", "level"), PAIRS)
def test_every_kind_and_level(kind: FaultKind, level: int | None) -> None:
    wanted = {pair: code for code, pair in CODES.items()}
    if (kind, level) in wanted:
        assert status_code(kind, level) == wanted[kind, level]
        return
    with pytest.raises(InvalidError, match=f"{kind.value} has no level {level}"):
        status_code(kind, level)


def test_the_table_holds_these_and_no_more() -> None:
    assert {code: pair for pair, code in STATUS.items()} == CODES


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("s1ptw", [False, True])
def test_par_both_ways(code: int, stage: int, s1ptw: bool) -> None:
    """PAR_EL1 with F=1: F 0, FST 6:1, PTW 8, S 9, bit 11 RES1."""
    par = 1 | code << 1 | s1ptw << 8 | (stage == 2) << 9 | 0x800
    fault = fault_of_par(par, 0x5000)
    assert fault == fault_of_status(code, 0x5000, stage, s1ptw)
    assert fault.par() == par


@pytest.mark.parametrize(
    ("par", "kind", "level"),
    [  # PAR_EL1 values as CPUs report them
        (0x809, FaultKind.TRANSLATION, 0),
        (0x80B, FaultKind.TRANSLATION, 1),
        (0x80F, FaultKind.TRANSLATION, 3),
        (0x817, FaultKind.ACCESS_FLAG, 3),
        (0x81D, FaultKind.PERMISSION, 2),
        (0x801, FaultKind.ADDRESS_SIZE, 0),
        (0x857, FaultKind.TRANSLATION, -1),
    ],
)
def test_known_pars(par: int, kind: FaultKind, level: int) -> None:
    assert Fault(kind, level).par() == par


def test_par_of_a_success_is_no_fault() -> None:
    with pytest.raises(InvalidError, match="F=0"):
        fault_of_par(0xFF00_0000_4008_0B80)


@given(st.integers(0, (1 << 64) - 1))
def test_any_par_is_a_fault_or_refused(par: int) -> None:
    try:
        fault = fault_of_par(par)
    except InvalidError:
        assert not par & 1 or par >> 1 & 0x3F not in CODES
    else:
        assert fault.par() & 0x37F == par & 0x37F


def test_text() -> None:
    assert str(Fault(FaultKind.TRANSLATION, 2)) == "Translation fault, level 2"
    assert (
        str(Fault(FaultKind.PERMISSION, 3, stage=2, s1ptw=True))
        == "Permission fault, level 3, stage 2 on a stage 1 table walk"
    )
    assert str(Fault(FaultKind.TLB_CONFLICT, None)) == "TLB conflict abort"
