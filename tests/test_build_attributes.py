"""Attributes and descriptor bits: every combination that a regime can say, and refusals."""

from itertools import product

import pytest

from ttbr.arch.attributes import permission_text
from ttbr.arch.descriptors import decode as decode_fields
from ttbr.arch.regime import EL1, EL2, EL3, EL20, STAGE2, WalkParams
from ttbr.build import Attributes, Mair, attributes_from, decode, describe, encode, table_params
from ttbr.build.attributes import MEMORY, wanted_permissions
from ttbr.errors import InvalidError
from ttbr.record import replace
from ttbr.regions import Region, RegionMap, format_regions, parse_regions
from ttbr.walk import Leaf

LETTERS = [
    "".join(c for c, on in zip("rwx", bits, strict=True) if on)
    for bits in product((0, 1), repeat=3)
]


def params_of(regime: str, **flags: bool) -> WalkParams:
    return table_params(regime, "4K", 48 if regime != STAGE2 else 40, **flags)


def sayable(p: WalkParams) -> dict[tuple[str, str], int]:
    """(access, user) -> descriptor, for all that `encode` accepts; each decodes to itself."""
    found = {}
    for access, user in product(LETTERS, LETTERS):
        wanted, mair = Attributes(access=access, user=user), Mair()
        try:
            d = encode(wanted, p, mair)
        except InvalidError:
            continue
        found[access, user] = d
        known = replace(p, mair=mair.value)
        leaf = Leaf(known, 3, 12, 0, d, 0)
        assert leaf.permissions == wanted_permissions(wanted, p.stage)
        got = decode(d, known)
        assert wanted_permissions(got, p.stage) == leaf.permissions
        assert encode(got, known, Mair.fixed(mair.value)) == d
    return found


@pytest.mark.parametrize("regime", [EL1, EL20])
def test_permissions_with_el0(regime: str) -> None:
    found = sayable(params_of(regime))
    # AP[2:1] x UXN x PXN, less privileged execution where EL0 may write.
    assert len(found) == 16 - 2
    assert found["rw", ""] >> 53 & 3 == 3
    assert found["rw", ""] >> 6 & 3 == 0b00
    assert found["rx", "rx"] >> 6 & 3 == 0b11
    assert ("rwx", "rw") not in found
    assert ("rw", "r") not in found
    assert ("r", "x") in found  # EL0 execute-only


@pytest.mark.parametrize("regime", [EL2, EL3])
def test_permissions_without_el0(regime: str) -> None:
    found = sayable(params_of(regime))
    assert set(found) == {("r", ""), ("rw", ""), ("rx", ""), ("rwx", "")}
    assert all(d >> 6 & 1 for d in found.values())  # AP[1] is RES1
    assert not any(d >> 53 & 1 for d in found.values())
    assert found["rw", ""] >> 54 == 1


def test_permissions_of_stage2() -> None:
    # S2AP (4) x XN[1:0] (4); without FEAT_XNX the two x are one.
    assert len(sayable(params_of(STAGE2))) == 16
    plain = sayable(replace(params_of(STAGE2), xnx=False))
    assert len(plain) == 8
    assert plain["r", "r"] >> 53 & 3 == 0b10
    alone = encode(Attributes(access="rwx"), params_of(STAGE2), Mair())
    assert alone == sayable(params_of(STAGE2))["rwx", "rwx"]


def test_wxn_refuses_writable_and_executable() -> None:
    assert ("rwx", "") in sayable(params_of(EL1))
    assert ("rwx", "") not in sayable(params_of(EL1, wxn=True))
    assert ("rwx", "") not in sayable(params_of(EL2, wxn=True))


@pytest.mark.parametrize("regime", [EL1, EL2, STAGE2])
def test_memory_types(regime: str) -> None:
    p, mair = params_of(regime), Mair()
    for name, byte in MEMORY.items():
        wanted = Attributes(name, "rw")
        if regime == STAGE2 and name == "normal-tagged":
            with pytest.raises(InvalidError, match="MemAttr has no such type"):
                encode(wanted, p, mair)
            continue
        d = encode(wanted, p, mair)
        known = replace(p, mair=mair.value)
        assert Leaf(known, 3, 12, 0, d, 0).attr == byte
        assert decode(d, known) == wanted
    assert encode(Attributes("0x4f", "rw"), params_of(EL1), Mair()) & 0x1C == 0


def test_forced_write_back() -> None:
    p = params_of(STAGE2, fwb=True)
    for name, memattr in (("normal", 6), ("normal-nc", 5), ("device-nGnRE", 1)):
        d = encode(Attributes(name, "rw"), p, Mair())
        assert d >> 2 & 0xF == memattr
        assert decode(d, p) == Attributes(name, "rw")
    with pytest.raises(InvalidError, match=r"MemAttr has no such type with HCR_EL2\.FWB=1"):
        encode(Attributes("normal-wt", "rw"), p, Mair())
    with pytest.raises(InvalidError, match="MemAttr=0b1111 is reserved"):
        decode(0x7FF, p)


def test_fields_stand_where_the_manual_has_them() -> None:
    p = params_of(EL1)
    a = Attributes("device-nGnRE", "r", "rx", "OSH", True, False, True, None, 0b1001, True, True)
    _, _, fields = decode_fields(encode(a, p, Mair(0xFF, 1)), 3, p.granule, p.form)
    got = {field.name: value for field, value in fields}
    assert got["SW"] == 0b1001
    assert (got["UXN"], got["PXN"], got["CONT"]) == (0, 1, 0)
    assert (got["DBM"], got["GP"], got["nG"], got["AF"]) == (1, 1, 1, 0)
    assert (got["SH"], got["AP"], got["AttrIndx"]) == (0b10, 0b11, 1)
    assert encode(a, p, Mair(), level=2) & 3 == 0b01


def test_what_the_regime_has_no_bit_for() -> None:
    for regime, change in (
        (EL2, {"not_global": True}),
        (STAGE2, {"not_global": True}),
        (STAGE2, {"guarded": True}),
        (EL1, {"non_secure": True}),
        (STAGE2, {"non_secure": True}),
    ):
        with pytest.raises(
            InvalidError, match=f"{next(iter(change))}: the descriptors of .* no such bit"
        ):
            encode(Attributes(**change), params_of(regime), Mair())  # type: ignore[arg-type]
    assert encode(Attributes(non_secure=True), params_of(EL3), Mair()) >> 5 & 1


def test_shareability_with_ds() -> None:
    p = params_of(EL1, ds=True)
    assert encode(Attributes(), p, Mair()) >> 8 & 3 == 0
    assert decode(encode(Attributes(), p, Mair()), replace(p, mair=0xFF)).shareability == "ISH"
    with pytest.raises(InvalidError, match="shareability OSH: TTBR0_EL1 has DS=1, which takes ISH"):
        encode(Attributes(shareability="OSH"), p, Mair())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": "fast"}, "memory 'fast': must be normal"),
        ({"memory": "0x1ff"}, "memory '0x1ff'"),
        ({"memory": "0x10"}, "memory 0x10: the MAIR encoding is reserved"),
        ({"access": "rq"}, "access 'rq': must be letters of rwx"),
        ({"access": "rr"}, "access 'rr'"),
        ({"user": "y"}, "user 'y'"),
        ({"shareability": "reserved"}, "shareability 'reserved': must be NSH, OSH, ISH"),
        ({"software": 16}, "software 0x10 does not fit"),
        ({"largest": 0}, "largest leaf 0x0"),
    ],
)
def test_values_that_no_regime_knows(values: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        Attributes(**values)  # type: ignore[arg-type]


def test_reserved_shareability() -> None:
    with pytest.raises(InvalidError, match="SH=0b01 is reserved"):
        decode(0x503, params_of(EL1))


def test_mair_is_allocated_in_order_and_ends() -> None:
    mair = Mair()
    bytes_ = [0xFF, 0x04, 0x44, 0x00, 0xBB, 0xF0, 0x0C, 0x08]
    assert [mair.index(b) for b in bytes_] == list(range(8))
    assert mair.index(0x44) == 2
    assert mair.value == 0x080C_F0BB_0044_04FF
    with pytest.raises(
        InvalidError, match=r"MAIR 0x080cf0bb004404ff is full and has no Normal .* \(0x4f\)"
    ):
        mair.index(0x4F)
    assert Mair(0, 1).index(0) == 0  # Device-nGnRnE is byte 0, and so is an unused index
    assert Mair(0, 0b10).index(0xFF) == 0


def test_region_file() -> None:
    regions = RegionMap(
        [
            Region(0, 0, 4096, Attributes("device-nGnRE", "rw", software=2), "uart"),  # type: ignore[arg-type]
            Region(8192, 0, 4096, Attributes(access="r", user="rx", largest=4096)),  # type: ignore[arg-type]
        ]
    )
    text = format_regions(regions, describe)
    assert 'memory = "device-nGnRE"' in text
    assert parse_regions(text, attributes_from) == regions
    for keys, message in (
        ({"colour": 1}, "'colour' is not an attribute; known: memory, access"),
        ({"access": 1}, "access = 1: must be a string"),
        ({"user": 1}, "user = 1: must be a string"),
        ({"contiguous": 1}, "contiguous = 1: must be true or false"),
        ({"software": True}, "software = True: must be a whole number"),
        ({"largest": "4K"}, "largest = '4K': must be a whole number"),
    ):
        with pytest.raises(InvalidError, match=message):
            attributes_from(keys)


def test_text_of_permissions_in_refusals() -> None:
    with pytest.raises(
        InvalidError, match="access rw-/r--: TTBR0_EL1 cannot say it; the nearest is"
    ):
        encode(Attributes(access="rw", user="r"), params_of(EL1), Mair())
    with pytest.raises(InvalidError, match="access rw-/r--: TTBR0_EL2 cannot say it"):
        encode(Attributes(access="rw", user="r"), params_of(EL2), Mair())
    assert permission_text(wanted_permissions(Attributes(), 1), el0=False) == "rw-"
