"""The guaranteed scope of each TLBI, and which leaves conflict."""

import pytest

from ttbr.switch.tlb import (
    ABORT,
    CONFLICT,
    UNKNOWN,
    Copy,
    Entry,
    Invalidation,
    Leaf,
    Part,
    conflict,
    removes,
)
from ttbr.switch.tlbi import tlbi_by_name

VA = 0x4000_1000


def leaf(tag: int | None = None, va: int = VA, size: int = 4096, **changes: int) -> Leaf:
    level = {4096: 3, 1 << 21: 2, 1 << 30: 1}[size]
    base = Leaf(tag, va, size, va, size, 0x8000_0000 + va, level, 12, 0xFF, 3, 7, 0x703, 0, 0x6000)
    return base._replace(**changes)


def part(tag: int | None = None, level: int = 3) -> Part:
    return Part(tag, VA & -(1 << 21), 1 << 21, level, 0x9000, 12, 0, 0x9003, 0x5000)


def invalidation(name: str, operand: int) -> Invalidation:
    op = tlbi_by_name(name)
    assert op is not None
    return Invalidation(0, "EL1&0", op, op.scope(operand))


def by_va(name: str, va: int = VA, asid: int = 0, ttl: int = 0) -> Invalidation:
    return invalidation(name, asid << 48 | ttl << 44 | va >> 12)


LEAF, LEAF7, PART7, COPY7 = leaf(), leaf(7), part(7), Copy(7, 0x6000, 0x703)


@pytest.mark.parametrize(
    ("tlbi", "entry", "gone"),
    [
        (invalidation("VMALLE1", 0), UNKNOWN, True),
        (invalidation("VMALLE1", 0), PART7, True),
        (invalidation("ALLE2", 0), UNKNOWN, True),
        (by_va("VAE1", asid=7), UNKNOWN, False),
        (by_va("VAE1", asid=7), LEAF7, True),
        (by_va("VAE1", asid=7), LEAF, True),  # global
        (by_va("VAE1", asid=8), LEAF7, False),
        (by_va("VAE1", asid=7), PART7, True),
        (by_va("VAE1", asid=8), PART7, False),
        (by_va("VAE1", VA + 4096, 7), LEAF7, False),
        (by_va("VAE1", VA + 4096, 7), PART7, True),  # covers the address
        (by_va("VAE1", VA + (1 << 21), 7), PART7, False),
        (by_va("VALE1", asid=7), LEAF7, True),
        (by_va("VALE1", asid=7), PART7, False),  # R_JXKNN
        (by_va("VAAE1"), LEAF7, True),
        (by_va("VAAE1"), PART7, True),
        (by_va("VAALE1"), PART7, False),
        (by_va("VAE1", VA + 0x5000, 7), leaf(7, VA & -(1 << 21), 1 << 21), True),  # any address
        (by_va("VAE1", asid=7, ttl=0b0111), LEAF7, True),  # 4K, level 3
        (by_va("VAE1", asid=7, ttl=0b0110), LEAF7, False),  # R_SQXYZ: level 2 is wrong
        (by_va("VAE1", asid=7, ttl=0b1011), LEAF7, False),  # 16K is wrong
        (by_va("VAE1", asid=7), COPY7, True),  # R_TJQVP
        (by_va("VAE1", asid=8), COPY7, False),
        (invalidation("ASIDE1", 7 << 48), LEAF7, True),
        (invalidation("ASIDE1", 7 << 48), PART7, True),
        (invalidation("ASIDE1", 7 << 48), LEAF, False),  # global
        (invalidation("ASIDE1", 8 << 48), PART7, False),
        (invalidation("VMALLS12E1", 0), LEAF7, True),
        (invalidation("IPAS2E1", VA >> 12), LEAF, False),  # never stage 1
    ],
)
def test_guaranteed_scope(tlbi: Invalidation, entry: Entry, gone: bool) -> None:
    assert removes(tlbi, entry) == gone


@pytest.mark.parametrize(("tg", "gone"), [(1, True), (2, False)])
def test_ranges_with_another_granule_remove_nothing(tg: int, gone: bool) -> None:
    """R_XKMMX. NUM=0, SCALE=0: two pages from the base."""
    base = VA >> (10 + 2 * tg)
    assert removes(invalidation("RVAE1", 7 << 48 | tg << 46 | base), LEAF7) == gone


def test_contiguous_goes_with_its_member() -> None:
    """R_LQLSD: the entry was made from the page at VA, and covers sixteen."""
    entry = leaf(7, first=VA & -65536, span=65536)
    assert removes(by_va("VAE1", asid=7), entry)
    assert not removes(by_va("VAE1", VA + 4096, 7), entry)


@pytest.mark.parametrize(
    ("domain", "kind", "name", "done"),
    [
        ("NSH", "", "VAE1", True),
        ("NSH", "", "VAE1IS", False),
        ("ISH", "", "VAE1IS", True),
        ("SY", "", "VAE1OS", True),
        ("ISH", "", "VAE1OS", False),
        ("ISH", "ST", "VAE1", False),
        ("ISH", "LD", "VAE1", False),
    ],
)
def test_which_dsb_completes(domain: str, kind: str, name: str, done: bool) -> None:
    assert by_va(name).completed_by(domain, kind, nxs=False) == done


def test_dsb_nxs_completes_nxs_only() -> None:
    assert not by_va("VAE1").completed_by("SY", "", nxs=True)
    assert by_va("VAE1nXS").completed_by("SY", "", nxs=True)


BLOCK = leaf(None, VA & -(1 << 21), 1 << 21, descriptor=0x701)
BLOCK_NT = BLOCK._replace(descriptor=0x1_0701)


@pytest.mark.parametrize(
    ("a", "b", "by_level"),
    [
        (leaf(), leaf(), ["", "", "", ""]),
        (leaf(), leaf(permissions=1), ["", "", "", ""]),
        (leaf(), leaf(attr=0x44), [CONFLICT] * 4),
        (leaf(), leaf(sh=2), [CONFLICT] * 4),
        (leaf(), leaf(output=0x9000_0000), [CONFLICT] * 4),
        (leaf(), leaf(7), [CONFLICT] * 4),  # global and not
        (leaf(), BLOCK, [CONFLICT, CONFLICT, ABORT, ""]),
        (leaf(), BLOCK_NT, [CONFLICT, ABORT, ABORT, ""]),  # R_HHCXC
        (leaf(), leaf(descriptor=0x703 | 1 << 52), [CONFLICT, ABORT, ABORT, ""]),
    ],
)
def test_conflicts(a: Leaf, b: Leaf, by_level: list[str]) -> None:
    assert [conflict(a, b, VA, bbm) for bbm in ("0", "1", "2", "2na")] == by_level
    assert [conflict(b, a, VA, bbm) for bbm in ("0", "1", "2", "2na")] == by_level
