"""TLBI names, encodings and operands."""

import pytest

from ttbr.errors import InvalidError
from ttbr.switch.tlbi import KINDS, TlbiOp, tlbi_by_encoding, tlbi_by_name


def op(name: str) -> TlbiOp:
    found = tlbi_by_name(name)
    assert found is not None
    return found


def every() -> list[TlbiOp]:
    encodings = [
        (op1, crn, crm, op2)
        for op1 in range(8)
        for crn in (8, 9)
        for crm in range(16)
        for op2 in range(8)
    ]
    return [found for e in encodings if (found := tlbi_by_encoding(*e)) is not None]


def test_every_name_has_its_own_encoding() -> None:
    count = sum(len(kind.op1_by_el) for kind in KINDS) * 3 * 2
    assert len(every()) == count == len({op.name for op in every()})
    assert all(tlbi_by_name(op.name.lower()) == op for op in every())


def test_names_are_not_guessed() -> None:
    for name in ("VAE1XS", "ALLE1NSH", "VAAE2", "ASIDE2", "RVAE1ISX", ""):
        assert tlbi_by_name(name) is None


def test_shareability_and_scope() -> None:
    assert (op("vaale1os").shareability, op("vaale1os").kind.last_level) == ("OSH", True)
    assert (op("alle2isnxs").shareability, op("alle2isnxs").nxs) == ("ISH", True)
    assert (op("vmalle1").shareability, op("vmalle1").operand) == ("NSH", False)


E2H, TGE = 1 << 34, 1 << 27


@pytest.mark.parametrize(
    ("name", "el", "hcr", "regime"),
    [
        ("vmalle1", 1, 0, "EL1&0"),
        ("vmalle1", 2, 0, "EL1&0"),
        ("vmalle1", 2, E2H, "EL1&0"),
        ("vmalle1is", 2, E2H | TGE, "EL2&0"),
        ("aside1", 2, E2H | TGE, "EL2&0"),
        ("vmalle1", 1, E2H | TGE, "EL1&0"),
        ("alle1", 2, E2H | TGE, "EL1&0"),
        ("ipas2e1is", 2, E2H | TGE, "EL1&0"),
        ("vae2", 2, 0, "EL2"),
        ("alle2", 2, E2H, "EL2&0"),
        ("alle3", 3, 0, "EL3"),
    ],
)
def test_regime(name: str, el: int, hcr: int, regime: str) -> None:
    assert op(name).regime(el, hcr) == regime


def test_va_operand() -> None:
    """ASID [63:48], TTL [47:44], VA[55:12] [43:0]."""
    scope = op("vae1").scope(0x0042 << 48 | 0b0111 << 44 | 0x8_0000)
    assert (scope.first, scope.last) == (0x8000_0000, 0x8000_0FFF)
    assert (scope.asid, scope.ttl) == (0x42, 0b0111)
    high = op("vaale1is").scope(0xFFF_FFFF_FFFF & (0xFFFF_FFC0_0800_0000 >> 12))
    assert (high.first, high.asid) == (0xFFFF_FFC0_0800_0000, None)


def test_asid_operand() -> None:
    assert op("aside1").scope(7 << 48 | 0xFFFF).asid == 7
    assert op("aside1").scope(7 << 48).first is None


def test_ipa_operand() -> None:
    scope = op("ipas2le1is").scope(0xF_FFFF_FFFF | 0b0100 << 44)
    assert (scope.first, scope.ttl) == (0xFFFF_FFFF_F000, 0b0100)


def test_range_operand() -> None:
    """TG [47:46], SCALE [45:44], NUM [43:39], TTL [38:37], BaseADDR [36:0]."""
    operand = 5 << 48 | 1 << 46 | 1 << 44 | 3 << 39 | 3 << 37 | 0x400
    scope = op("rvae1is").scope(operand)
    assert (scope.first, scope.last) == (0x40_0000, 0x40_0000 + (4 << 6 << 12) - 1)
    assert (scope.asid, scope.ttl, scope.granule) == (5, 0b0111, 12)
    sixteen = op("rvale2").scope(2 << 46 | 1)
    assert (sixteen.first, sixteen.last, sixteen.granule) == (0x4000, 0xBFFF, 14)
    assert op("rvae2").scope(1 << 46 | 1, ds=True).first == 0x1_0000
    with pytest.raises(InvalidError, match="TG = 0 is reserved"):
        op("rvae2").scope(1)
