"""A seeded random comparison of `ttbr.walk` with an emulated CPU, through the quirk table.

For each address of each scenario the CPU's PAR_EL1 must equal ours, or what ours becomes when the
quirks of that emulator are applied. Anything else is a difference that nothing explains: a bug of
the walk, or a quirk not yet known.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from ttbr import record
from ttbr.arch.attributes import RESERVED
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.regime import Regime, WalkParams, regime_of
from ttbr.emulate.quirk_effects import Asked
from ttbr.emulate.quirks import Quirk
from ttbr.emulate.scenarios import Question, scenario
from ttbr.emulate.sides import NotComparable, Side
from ttbr.errors import InvalidError
from ttbr.walk import address_translate
from ttbr.walk.at import at_regime

__all__ = ["Difference", "Report", "compare", "compare_one"]

PAR_STAGE2 = 1 << 9  # PAR_EL1.S, which an AT that takes an exception does not report


class _Memory:
    """The question's own memory, and what the emulated machine has beside it."""

    def __init__(self, question: Question, side: Side, zero: bool) -> None:
        self._blocks = sorted(question.memory.items())
        self._beyond = (lambda address, size: bytes(size)) if zero else side.beyond

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at PA *address*."""
        for base, data in self._blocks:
            if 0 <= address - base <= len(data) - size:
                return data[address - base : address - base + size]
        return self._beyond(address, size)


class _Model:
    """Our answers to a question, with *quirks* applied."""

    def __init__(self, question: Question, side: Side, quirks: Sequence[Quirk]) -> None:
        self.question, self.features, self.quirks = question, side.target.features, quirks
        self.memory = _Memory(question, side, any(quirk.zero_memory for quirk in quirks))
        self.registers = question.registers
        for quirk in quirks:
            if quirk.registers is not None:
                self.registers = quirk.registers(self.registers, self.features)
        self.regime = self._regime()
        self.why = ""

    def _regime(self) -> Regime:
        name = at_regime(self.question.operation, self.registers)
        regime = regime_of(self.registers, name, self.features)
        for quirk in self.quirks:
            if quirk.params is None:
                continue
            for part in ("lower", "upper", "stage2"):
                p = getattr(regime, part)
                if isinstance(p, WalkParams):
                    changed = quirk.params(p, self.question.registers)
                    regime = record.replace(regime, **{part: changed})
        return regime

    def par(self, va: int) -> int | None:
        """PAR_EL1 for *va*; None when we refuse the configuration. `why` says more."""
        question = self.question
        try:
            answer = address_translate(
                self.memory,
                self.registers,
                question.operation,
                va,
                pan=question.pan,
                features=self.features,
                regime=self.regime,
            )
        except InvalidError as error:
            self.why = str(error)
            return None
        asked = Asked(self.regime, va, question.operation)
        for quirk in self.quirks:
            if quirk.answer is not None:
                answer = quirk.answer(answer, asked)
        par = answer.par()
        if isinstance(answer, Fault):
            self.why = f"{answer} ({answer.reason})"
            return par & ~PAR_STAGE2 if answer.kind is FaultKind.EXTERNAL_ABORT else par
        if answer.attr == RESERVED:
            raise NotComparable  # reserved MemAttr, of tables that an earlier scenario left
        self.why = f"PA {answer.pa:#x}"
        for quirk in self.quirks:
            if quirk.par is not None:
                par = quirk.par(par, answer, asked)
        return par


@dataclass(frozen=True, slots=True)
class Difference:
    """A probe that nothing explains: PAR_EL1 is `theirs` on the CPU, `ours`, or `expected` with
    the quirks applied (None: refused); `why` is our reason.
    """

    question: Question
    address: int
    theirs: int
    ours: int | None
    expected: int | None
    why: str

    def __str__(self) -> str:
        ours, expected = (
            "refused" if par is None else f"{par:#x}" for par in (self.ours, self.expected)
        )
        return (
            f"{self.question} of {self.address:#x}: CPU {self.theirs:#x}, ours {ours}, "
            f"with quirks {expected}: {self.why}"
        )


@dataclass(slots=True)
class Report:
    """What a comparison found.

    `explained` counts the probes where only the quirks make us equal. `needed` counts, over a
    sample of them, the ids of the quirks without which they would not be. `not_comparable` probes
    met a device of the emulated machine; `updated` ones an access flag that an earlier AT had set.
    """

    name: str
    seed: int
    probes: int = 0
    explained: int = 0
    not_comparable: int = 0
    updated: int = 0
    seconds: float = 0.0
    needed: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        needed = ", ".join(f"{name} {count}" for name, count in sorted(self.needed.items()))
        return (
            f"{self.name}, seed {self.seed}: {self.probes} probes in {self.seconds:.1f} s, "
            f"{len(self.differences)} unexplained; {self.explained} by quirks "
            f"(of a sample: {needed or 'none'}), {self.not_comparable} not comparable, "
            f"{self.updated} with a flag set by an earlier probe"
        )


def compare(
    side: Side,
    seed: int,
    probes: int,
    regime: str | None = None,
    *,
    most: int = 20,
    sample: int = 16,
) -> Report:
    """Compare at least *probes* probes of *seed* with *side*, in one *regime* or in all.

    Stops at *most* unexplained differences. One scenario in *sample* names the quirks needed.
    """
    report = Report(side.target.name, seed)
    begun = monotonic()
    number = 0
    while report.probes < probes and len(report.differences) < most:
        question = scenario(seed, number, side.target, regime)
        compare_one(side, question, report, sample=number % sample == 0)
        number += 1
    report.seconds = monotonic() - begun
    return report


def compare_one(side: Side, question: Question, report: Report, *, sample: bool = False) -> None:
    """Compare the answers to one *question*, adding to *report*; *sample* names the quirks."""
    pars = side.ask(question)
    plain = _Model(question, side, ())
    emulated: _Model | None = None
    explained = []
    for va, theirs in zip(question.addresses, pars, strict=True):
        report.probes += 1
        try:
            ours = plain.par(va)
            if ours == theirs:
                continue
            emulated = emulated or _Model(question, side, side.quirks)
            expected = emulated.par(va)
        except NotComparable:
            report.not_comparable += 1
            continue
        if expected == theirs:
            report.explained += 1
            explained.append((va, theirs))
        elif side.target.features.hafdbs and _alone(side, question, va) in (ours, expected):
            report.updated += 1
        else:
            why = plain.why or emulated.why
            report.differences.append(Difference(question, va, theirs, ours, expected, why))
    if sample:
        _name_quirks(side, question, explained, report.needed)


def _alone(side: Side, question: Question, va: int) -> int:
    """The CPU's answer for *va* alone, on tables that no earlier AT has updated."""
    return side.ask(replace(question, addresses=[va]))[0]


def _name_quirks(
    side: Side, question: Question, explained: Sequence[tuple[int, int]], needed: Counter[str]
) -> None:
    """Count the quirks without which the *explained* probes would differ."""
    for quirk in side.quirks if explained else ():
        without = _Model(question, side, [q for q in side.quirks if q is not quirk])
        for va, theirs in explained:
            try:
                needed[quirk.id] += without.par(va) != theirs
            except NotComparable:
                needed[quirk.id] += 1
