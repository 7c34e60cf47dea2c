"""The walk against emulated CPUs on seeded random hostile tables, and the gate that this can fail.

`TTBR_SEED` chooses another seed; the seed and the number of probes are printed.
"""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulate_tables import needs_qemu, needs_unicorn
from ttbr.arch import faults, regime
from ttbr.arch.attributes import UR, UW
from ttbr.arch.faults import Fault
from ttbr.arch.regime import EL1, EL2, EL20, WalkParams
from ttbr.emulate import differential
from ttbr.emulate.differential import Report, compare, compare_one
from ttbr.emulate.qemu_at import ExternalAbort, QemuAt
from ttbr.emulate.scenarios import STAGE12, Question, scenario
from ttbr.emulate.sides import Output, QemuSide, Side, UnicornSide, answer_of
from ttbr.emulate.unicorn_at import UnicornAt
from ttbr.errors import TtbrError
from ttbr.record import replace
from ttbr.walk import at

# The package also has a function of this name.
translate = importlib.import_module("ttbr.walk.translate")

SEED = int(os.environ.get("TTBR_SEED", "20240229"))


@pytest.fixture(scope="module")
def unicorn() -> Iterator[Side]:
    with UnicornAt() as cpu:
        yield UnicornSide(cpu)


@pytest.fixture(scope="module")
def qemu() -> Iterator[QemuSide]:
    with QemuAt() as machine:
        yield QemuSide(machine)


def agreed(report: Report) -> None:
    print(report)
    assert not report.differences, "\n".join(map(str, [report, *report.differences]))


@needs_unicorn
@pytest.mark.parametrize("name", [EL1, EL2, STAGE12])
def test_the_walk_is_unicorns(unicorn: Side, name: str) -> None:
    agreed(compare(unicorn, SEED, 10_000, name))


@needs_qemu
@pytest.mark.parametrize("name", [EL1, EL2, EL20, STAGE12])
def test_the_walk_is_qemus(qemu: Side, name: str) -> None:
    agreed(compare(qemu, SEED, 10_000, name))


@needs_unicorn
@pytest.mark.slow
def test_a_million_probes_on_unicorn(unicorn: Side) -> None:
    report = compare(unicorn, SEED, 1_000_000)
    agreed(report)
    assert report.probes >= 1_000_000


@needs_qemu
@pytest.mark.slow
def test_many_probes_on_qemu(qemu: Side) -> None:
    report = compare(qemu, SEED, 400_000)
    agreed(report)
    assert report.probes >= 400_000
    assert report.not_comparable + report.updated < report.probes // 1000


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["neoverse-n1", "cortex-a57", "a64fx", "max,lpa2=off"])
def test_other_cpus_have_fewer_features(cpu: str) -> None:
    with QemuAt(cpu) as machine:
        agreed(compare(QemuSide(machine), SEED, 60_000))


def rare_questions(base: int) -> list[Question]:
    """Tables that need the quirks which random ones seldom meet: Q5, then Q4."""
    page = bytearray(4096)
    page[0x30:0x38] = (base | 0b11).to_bytes(8, "little")  # found at TTBR[5:4]=0b11 only
    small_root = {
        "TTBR0_EL2": base | 0x30,
        "TCR_EL2": 24 | 5 << 16 | 1 << 32,  # two entries at level 0, 48-bit output, DS
        "SCTLR_EL2": 1,
    }
    block = (1 << 33 | 1 << 10 | 0b01).to_bytes(8, "little") + bytes(4088)
    large_block = {
        "TTBR0_EL2": base,
        "TCR_EL2": 16 | 0b01 << 14,  # 64K from level 1, 32-bit output
        "SCTLR_EL2": 1,
    }
    return [
        Question("a root of 16 bytes", "S1E2R", small_root, {base: bytes(page)}, [0x1000]),
        Question("a block with RES0 bits set", "S1E2R", large_block, {base: block}, [0x1000]),
    ]


@needs_unicorn
@needs_qemu
@pytest.mark.slow
def test_every_quirk_with_an_effect_is_needed(unicorn: Side, qemu: QemuSide) -> None:
    needed: Counter[str] = Counter()
    for side in (unicorn, qemu):
        for name in side.target.regimes:
            needed += compare(
                side, SEED, 60_000 if name == STAGE12 else 20_000, name, sample=1
            ).needed
    rare = Report("rare", 0)
    for question in rare_questions(qemu.target.bases[0]):
        compare_one(qemu, question, rare, sample=True)
    with QemuAt("cortex-a57") as machine:
        needed += compare(QemuSide(machine), SEED, 20_000, EL1, sample=1).needed
    ids = {quirk.id for side in (unicorn, qemu) for quirk in side.quirks}
    assert ids - set(needed) - set(+rare.needed) == set()


@needs_qemu
def test_rare_quirks(qemu: QemuSide) -> None:
    report = Report("rare", 0)
    for question in rare_questions(qemu.target.bases[0]):
        compare_one(qemu, question, report, sample=True)
    agreed(report)
    assert {"Q4", "Q5"} <= set(+report.needed)


def test_a_scenario_is_a_function_of_seed_and_number() -> None:
    pytest.importorskip("numpy")
    target = FakeSide().target
    assert scenario(7, 3, target) == scenario(7, 3, target)
    assert scenario(7, 3, target) != scenario(7, 4, target)
    assert scenario(8, 3, target) != scenario(7, 3, target)


class FakeSide:
    """A CPU that answers 0 to everything."""

    def __init__(self) -> None:
        from ttbr.arch.features import Features
        from ttbr.emulate.quirks import quirks_of
        from ttbr.emulate.scenarios import Target

        self.target = Target("fake", Features(), (EL1,), (0x4000_0000,))
        self.quirks = quirks_of("qemu")

    def ask(self, question: Any) -> list[int]:
        return [0] * len(question.addresses)

    def beyond(self, address: int, size: int) -> bytes:
        return bytes(size)


def test_a_wrong_cpu_is_reported_with_seed_and_address() -> None:
    report = compare(FakeSide(), 5, 1_000, most=3)
    assert len(report.differences) >= 3
    text = str(report.differences[0])
    assert "fake seed 5 scenario 0 (EL1&0), AT S1" in text
    assert f"{report.differences[0].address:#x}: CPU 0x0, ours" in text
    assert "seed 5" in str(report)


def test_answers_are_the_librarys() -> None:
    mapped = answer_of(0xFF00_0000_8000_0B80, 0x4000_0123)
    assert mapped == Output(0x4000_0123, 0x8000_0123, 0xFF, 3, True)
    fault = answer_of(0xB1F, 0x1000)
    assert isinstance(fault, Fault)
    assert (fault.kind.name, fault.level, fault.stage, fault.s1ptw) == ("PERMISSION", 3, 2, True)
    abort = answer_of(ExternalAbort(0x9600_0117), 0x1000)
    assert isinstance(abort, Fault)
    assert (abort.kind.name, abort.level, abort.va) == ("EXTERNAL_ABORT", 3, 0x1000)


Break = Callable[[pytest.MonkeyPatch], None]


def half(**changes: Any) -> Break:
    """Each half (and stage 2) made with *changes*, functions of its `WalkParams`."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        original = regime.walk_params

        def broken(*args: Any, **kwargs: Any) -> WalkParams:
            p = original(*args, **kwargs)
            return replace(p, **{name: change(p) for name, change in changes.items()})

        patch.setattr(regime, "walk_params", broken)

    return apply


def function(module: Any, name: str, make: Callable[[Any], Any]) -> Break:
    """*module*.*name* replaced by ``make(original)``."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, name, make(getattr(module, name)))

    return apply


def refusing(**changes: Any) -> Break:
    """The range check sees *changes*."""
    return function(
        translate,
        "_refuse_address",
        lambda original: lambda p, va, access: original(replace(p, **changes), va, access),
    )


def permissions(**changes: Callable[[int], int]) -> Break:
    """Arguments of `stage1_permissions` changed, by name."""
    names = ("ap", "uxn", "pxn", "aptable", "uxntable", "pxntable", "wxn", "el0")

    def make(original: Any) -> Any:
        def broken(*args: int) -> Any:
            values = dict(zip(names, args, strict=True))
            for name, change in changes.items():
                values[name] = change(values[name])
            return original(*values.values())

        return broken

    return function(translate, "stage1_permissions", make)


# The broken rule, who can see it, in which regime, and how it is broken.
MUTANTS: dict[str, tuple[str, str, Break]] = {
    "AF is not checked": ("unicorn", EL1, half(ha=lambda p: True)),
    "HA is ignored": ("qemu", EL1, half(ha=lambda p: False)),
    "DBM does not make writable": ("qemu", EL1, half(hd=lambda p: False)),
    "HPD is ignored": ("unicorn", EL1, half(hpd=lambda p: False)),
    "HPD is always on": ("unicorn", EL2, half(hpd=lambda p: True)),
    "PS is ignored": ("qemu", EL1, half(output_bits=lambda p: 64)),
    "PS is one step too small": ("qemu", EL2, half(output_bits=lambda p: p.output_bits - 4)),
    "MAIR index is reversed": (
        "unicorn",
        EL1,
        half(mair=lambda p: int.from_bytes(p.mair.to_bytes(8, "little"), "big")),
    ),
    "SH is from the descriptor with DS=1": ("qemu", EL1, half(sh=lambda p: None)),
    "DS adds no output address bits": (
        "qemu",
        EL1,
        half(form=lambda p: replace(p.form, high_mask=p.form.high_mask & ~0x300)),
    ),
    "LPA adds no output address bits": (
        "qemu",
        EL2,
        half(form=lambda p: replace(p.form, high_mask=p.form.high_mask & ~0xF000)),
    ),
    "the root's low bits count": (
        "unicorn",
        EL1,
        function(
            regime,
            "_base_address",
            lambda original: lambda ttbr, size, wide: original(ttbr, 64, wide),
        ),
    ),
    "TTBR bits 5:2 are not address": (
        "qemu",
        EL1,
        function(
            regime,
            "_base_address",
            lambda original: lambda ttbr, size, wide: original(ttbr, size, False),
        ),
    ),
    "EPD is ignored": ("unicorn", EL1, refusing(epd=False)),
    "E0PD is ignored": ("qemu", EL1, refusing(e0pd=False)),
    "TBI is ignored": ("unicorn", EL1, refusing(tbi=False)),
    "TBI is always on": ("unicorn", EL1, refusing(tbi=True)),
    "bit 63 selects the half": (
        "unicorn",
        EL1,
        function(
            regime.Regime,
            "half",
            lambda original: (
                lambda self, va: original(self, va & ~(1 << 55) | (va >> 63 & 1) << 55)
            ),
        ),
    ),
    "PAN is ignored": (
        "unicorn",
        EL1,
        function(
            translate,
            "_denied",
            lambda original: (
                lambda mask, access, pan3: original(
                    mask if mask & access.need == 0 else mask & ~(UR | UW) | access.need,
                    access,
                    pan3,
                )
            ),
        ),
    ),
    "AP[1] is ignored": ("unicorn", EL1, permissions(ap=lambda ap: ap | 1)),
    "AP[2] is ignored": ("unicorn", EL2, permissions(ap=lambda ap: ap & 1)),
    "APTable[0] is ignored": ("unicorn", EL1, permissions(aptable=lambda t: t & 2)),
    "APTable[1] is ignored": ("unicorn", EL1, permissions(aptable=lambda t: t & 1)),
    "EL2 obeys AP[1]": ("unicorn", EL2, permissions(el0=lambda el0: 1, ap=lambda ap: ap ^ 3)),
    "S2AP is ignored": (
        "qemu",
        STAGE12,
        function(
            translate,
            "stage2_permissions",
            lambda original: lambda s2ap, xn, xnx: original(3, xn, xnx),
        ),
    ),
    "S2AP bits are swapped": (
        "unicorn",
        STAGE12,
        function(
            translate,
            "stage2_permissions",
            lambda original: lambda s2ap, xn, xnx: original(s2ap >> 1 | s2ap << 1 & 2, xn, xnx),
        ),
    ),
    "PTW is ignored": (
        "qemu",
        STAGE12,
        function(
            translate,
            "_fetch_through_stage2",
            lambda original: lambda memory, r: original(memory, replace(r, protected_walk=False)),
        ),
    ),
    "stage 1 tables are at PAs": (
        "unicorn",
        STAGE12,
        function(
            translate,
            "_fetch_through_stage2",
            lambda original: lambda memory, r: lambda ipa, va, steps: ipa,
        ),
    ),
    "Device loses to Normal": (
        "unicorn",
        STAGE12,
        function(
            translate,
            "combine_memory",
            lambda original: lambda s1, memattr, fwb=False: original(s1, memattr | 0b0101, fwb),
        ),
    ),
    "shareability is that of stage 1": (
        "qemu",
        STAGE12,
        function(translate, "combine_shareability", lambda original: lambda s1, s2: s1),
    ),
    "CD is ignored": (
        "unicorn",
        STAGE12,
        function(
            at,
            "translate",
            lambda original: (
                lambda memory, r, *args, **kwargs: original(
                    memory, replace(r, cache_disabled=False), *args, **kwargs
                )
            ),
        ),
    ),
    "AT S1E0R is privileged": (
        "unicorn",
        EL1,
        lambda patch: patch.setitem(at.AT_OPERATIONS, "S1E0R", at.AT_OPERATIONS["S1E1R"]),
    ),
    "AT S12 stops after stage 1": (
        "unicorn",
        STAGE12,
        lambda patch: patch.setitem(at.AT_OPERATIONS, "S12E1R", at.AT_OPERATIONS["S1E1R"]),
    ),
    "S1PTW is not reported": (
        "qemu",
        STAGE12,
        function(
            faults.Fault, "par", lambda original: lambda self: original(replace(self, s1ptw=False))
        ),
    ),
    "E2H does not change AT S1E2": (
        "qemu",
        EL20,
        function(
            differential,
            "at_regime",
            lambda original: lambda *args: EL2 if original(*args) == EL20 else original(*args),
        ),
    ),
}


@needs_unicorn
@needs_qemu
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_walk_is_caught(
    mutant: str, unicorn: Side, qemu: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, name, apply = MUTANTS[mutant]
    apply(monkeypatch)
    side = {"unicorn": unicorn, "qemu": qemu}[who]
    report = compare(side, SEED, 40_000, name, most=1)
    print(f"{mutant}: caught after {report.probes} probes")
    assert report.differences


def test_an_abort_of_qemu_is_not_swallowed() -> None:
    class Dead(FakeSide):
        def ask(self, question: Any) -> list[int]:
            raise TtbrError("QEMU died (signal SIGABRT): it said nothing")

    with pytest.raises(TtbrError, match="SIGABRT"):
        compare(Dead(), SEED, 1)
