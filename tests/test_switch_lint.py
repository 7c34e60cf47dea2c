"""Break-before-make where no access of the trace notices."""

import pytest

from switch_catalogue import K4, KERNEL, M2, OTHER_PA, RW, TARGET, TARGET_PA, TEXT, Kernel
from switch_tables import Trace, block, page, tcr1, tcr2
from ttbr.switch.problem import Intent, Problem
from ttbr.switch.prove import prove

PXNTABLE, UXNTABLE, APTABLE0, APTABLE1 = (1 << bit for bit in (59, 60, 61, 62))


def limited(bits: int, broken: bool = False, tcr: int = 0) -> Problem:
    """The permissions in the level 2 table descriptor of TARGET change."""
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA)
    link = k.arena.location(k.root, TARGET & (1 << 39) - 1, 2, 39)
    t = Trace(TEXT, el=1)
    if broken:
        t.store(KERNEL + link, 0).dsb("ISH").tlbi("VMALLE1IS").dsb("ISH").isb()
    t.store(KERNEL + link, k.arena.get(link) | bits).dsb("ISH").tlbi("VMALLE1IS").dsb("ISH").isb()
    t.ldr(TARGET)
    target = Intent(TARGET, K4, TARGET_PA, permissions=RW)
    return k.problem(t, target, changed={"TCR_EL1": tcr or tcr1(25)})


@pytest.mark.parametrize("bits", [PXNTABLE, UXNTABLE, APTABLE0])
def test_permissions_in_a_table_descriptor_need_a_break(bits: int) -> None:
    """I_YQWJF, unlike those of a leaf; without effect with HPD=1."""
    assert prove(limited(bits)).kinds == ("BBM",)
    assert prove(limited(bits, broken=True)).safe
    assert prove(limited(bits, tcr=tcr1(25, HPD1=1))).safe
    assert prove(limited(0)).safe


def test_permissions_of_a_leaf_need_none() -> None:
    k = Kernel()
    at = k.map(k.root, TARGET, TARGET_PA)
    t = Trace(TEXT, el=1).store(KERNEL + at, page(TARGET_PA, extra=1 << 53)).dsb("ISH")
    t.tlbi("VMALLE1IS").dsb("ISH").isb().ldr(TARGET)
    assert prove(k.problem(t, Intent(TARGET, K4, TARGET_PA, permissions=RW))).safe


@pytest.mark.parametrize(("whole", "kinds"), [(True, ()), (False, ("BBM",))])
def test_pages_that_become_a_block_must_all_go(whole: bool, kinds: tuple[str, ...]) -> None:
    """A TLBI of the first page leaves 511 leaves, of which only the lint knows."""
    k = Kernel()
    base = TARGET & -M2
    for i in range(512):
        k.map(k.root, base + i * K4, TARGET_PA + i * K4)
    link = k.arena.location(k.root, base & (1 << 39) - 1, 2, 39)
    t = Trace(TEXT, el=1).store(KERNEL + link, 0).dsb("ISH")
    t = t.tlbi("VMALLE1IS") if whole else t.tlbi("VAE1IS", base)
    t.dsb("ISH").isb().store(KERNEL + link, block(TARGET_PA)).dsb("ISH").isb().ldr(base)
    assert prove(k.problem(t, Intent(base, M2, TARGET_PA, permissions=RW))).kinds == kinds


@pytest.mark.parametrize(("el", "kinds"), [(2, ()), (1, ("BBM",))])
def test_a_store_out_of_context_counts_when_walks_go_on(el: int, kinds: tuple[str, ...]) -> None:
    """EL2 changes a page of EL1&0: a TLBI before EL1 walks again is as good as a break."""
    k = Kernel()
    at = k.map(k.root, TARGET, OTHER_PA)
    vector = 0x8000_0000
    t = Trace(TEXT, el=1).call(2, vector).dsb("SY")
    t.store(at, page(TARGET_PA)).dmb().dc("CIVAC", at).dsb("SY")
    if el == 2:
        t.tlbi("VMALLE1").dsb("SY")
    t.eret(1, TEXT)
    if el == 1:
        t.tlbi("VMALLE1").dsb("SY").isb()
    t.ldr(TARGET)
    intent = (
        Intent(k.arena.base, M2, k.arena.base, regime="EL2"),
        Intent(vector, K4, vector, regime="EL2"),
        Intent(TARGET, K4, TARGET_PA, permissions=RW),
    )
    hyp = {"TTBR0_EL2": 0, "TCR_EL2": tcr2(25), "SCTLR_EL2": 0}
    assert prove(k.problem(t, *intent, changed=hyp)).kinds == kinds
