"""The walk against what real CPUs models answered for real kernels' tables."""

import re
from pathlib import Path

import pytest

from captures import Moment, boots, moments
from ttbr.arch.faults import Fault
from ttbr.arch.regime import Regime, WalkParams, current_regime, regime_of
from ttbr.emulate.quirk_effects import Asked
from ttbr.emulate.quirks import QUIRKS
from ttbr.errors import InvalidError
from ttbr.record import replace
from ttbr.walk import EL0_READ, READ, Mapping, address_translate, translate
from ttbr.walk.at import at_regime

AT = moments("at.tsv.gz")
GPA = moments("gva2gpa.tsv.gz")


# Of the emulator's known errors only this one shows on real kernels' tables.
SHAREABILITY = next(quirk for quirk in QUIRKS if quirk.id == "B4")


def as_qemu_reports(answer: Mapping | Fault, asked: Asked) -> int:
    """PAR_EL1 with the one quirk."""
    par = answer.par()
    if isinstance(answer, Fault):
        return par
    assert SHAREABILITY.par is not None
    return SHAREABILITY.par(par, answer, asked)


def outside_the_architecture(moment: Moment) -> bool:
    """Linux 6.12 runs here with T1SZ=12 while DS=0: below the minimum of 16."""
    return moment.path.name == "05a_lpa2_entry"


@pytest.mark.parametrize("moment", AT, ids=lambda m: m.name)
def test_par_equals_the_cpu(moment: Moment) -> None:
    rows = moment.rows("at.tsv.gz")
    operations = next(rows)[1:]
    registers = moment.registers.values
    regimes = {op: regime_of(registers, at_regime(op, registers)) for op in operations}
    checked = refused = 0
    for va_text, *answers in rows:
        va = int(va_text, 16)
        for op, answer in zip(operations, answers, strict=True):
            regime = regimes[op]
            try:
                ours = address_translate(
                    moment.image.memory, registers, op, va, pan=moment.registers.pan, regime=regime
                )
            except InvalidError as error:
                if not outside_the_architecture(moment) or "TCR_EL1.T1SZ=12" not in str(error):
                    raise
                refused += 1
                continue
            assert hex(as_qemu_reports(ours, Asked(regime, va, op))) == answer, (op, va_text, ours)
            checked += 1
    assert checked + refused >= 500
    assert outside_the_architecture(moment) == (refused > 0)


def ignoring_access_flag(regime: Regime) -> Regime:
    """`gva2gpa` reports AF=0 as mapped: walk as if hardware set the flag."""

    def half(p: object) -> object:
        return replace(p, ha=True) if isinstance(p, WalkParams) else p

    return replace(
        regime,
        lower=half(regime.lower),
        upper=half(regime.upper),
        stage2=half(regime.stage2),
    )


@pytest.mark.parametrize("moment", GPA, ids=lambda m: m.name)
def test_same_physical_address_as_gva2gpa(moment: Moment) -> None:
    registers = moment.registers.values
    el = moment.registers.el
    assert el is not None
    regime = ignoring_access_flag(regime_of(registers, current_regime(registers, el)))
    access = EL0_READ if el == 0 else replace(READ, pan=moment.registers.pan)
    checked = 0
    for va_text, answer in moment.rows("gva2gpa.tsv.gz"):
        if va_text == "va":
            continue
        try:
            ours = translate(moment.image.memory, regime, int(va_text, 16), access)
        except InvalidError:
            if not outside_the_architecture(moment):
                raise
            continue
        theirs = None if answer == "Unmapped" else int(answer, 16)
        assert (None if isinstance(ours, Fault) else ours.pa) == theirs, (va_text, ours)
        checked += 1
    assert checked >= 100


def pages_of(boot: Path) -> dict[int, int]:
    """User page -> physical address, from the process's own pagemap (bits 54:0 are the frame)."""
    shift = {"4k": 12, "16k": 14, "64k": 16}[page_size(boot)]
    pages = {}
    damaged = 0
    for line in (boot / "pagemap.txt").read_text().splitlines():
        match = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]{1,16}) [rwxps-]+", line)
        if match is None:  # the console of two boots mixed messages into some lines
            damaged += 1
            continue
        va, entry = match.groups()
        if int(entry, 16) >> 63:
            pages[int(va, 16)] = (int(entry, 16) & (1 << 55) - 1) << shift
    assert damaged <= 3
    return pages


def page_size(boot: Path) -> str:
    return next((size for size in ("16k", "64k") if f"-{size}" in boot.name), "4k")


@pytest.mark.parametrize("boot", boots("pagemap.txt"), ids=lambda b: b.name)
def test_user_pages_have_the_frame_of_pagemap(boot: Path) -> None:
    pages = pages_of(boot)
    checked = 0
    for name in ("41_victim_el0", "42_kernel_irq_from_user"):
        if not (boot / name).is_dir():
            continue
        moment = Moment(boot / name)
        registers = moment.registers.values
        regime = regime_of(registers, current_regime(registers, 0))
        for va, pa in pages.items():
            ours = translate(moment.image.memory, regime, va)
            if isinstance(ours, Mapping):
                assert ours.pa == pa, hex(va)
                checked += 1
    assert checked > len(pages) // 2
