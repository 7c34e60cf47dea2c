"""What a proof says may be in a TLB or used by a walk, as `ttbr.emulate.replay` holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ttbr.arch.attributes import PR, PW, PX
from ttbr.arch.params import WalkParams
from ttbr.emulate.run import PAGE
from ttbr.errors import UnsupportedError
from ttbr.record import replace as changed
from ttbr.switch.configs import ROWS, Config, Decoder
from ttbr.switch.judge import ATTR, BBM, KINDS, NO_FAULT, Clash, Finding, Flat, Hit, Stale
from ttbr.switch.saturate import Stop
from ttbr.switch.tlb import ABORT, CONFLICT, JUNK, UNKNOWN, Entry, Leaf, Part

__all__ = ["Held", "Resume", "held_of"]

LAST = 1 << 62
ALL = PR | PW | PX

# What the architecture allows and no emulator does.
_ALLOWED = {
    CONFLICT: "TLB conflict abort: allowed by the architecture (R_WHZWS, K1.2.3)",
    ABORT: "TLB conflict abort: allowed by the architecture (I_HYQMB, R_FCPSG)",
}


class Resume(NamedTuple):
    """A partial walk: go on at `level` in `table`, of a granule of ``1 << shift`` bytes."""

    level: int
    table: int
    shift: int
    hierarchical: int = 0

    def params(self, p: WalkParams) -> WalkParams:
        """*p* for a walk that begins here."""
        other = Decoder(p).variant(self.shift).p
        bits = other.granule.level_shift(self.level) + other.granule.stride
        return changed(other, root=self.table, start_level=self.level, input_bits=bits, levels=())


@dataclass(frozen=True, slots=True)
class Held:
    """*size* bytes from *va* translate to *pa*, whatever the tables say; with *pa* None they fault.

    With `registers` a walk is made in place of that, which uses those values and not the newest
    (they are not synchronized), and goes on at `resume` when that is given. `descriptors` (address
    to value) are what the entry was made of, or what the walk reads though a store changed it: it
    is held only when the memory has shown each of them since the run began.

    An entry lasts from instruction `first` to instruction `last` of the run, counted from 0 and
    both included. A run that it leads elsewhere than to `intended` has died, and with
    `meant_to_fault` one that it lets go on. A `decreed` entry ends the run because the proof says
    so; the emulator shows nothing of it. `source` and `why` are for the report.
    """

    va: int
    size: int
    pa: int | None
    permissions: int = ALL
    first: int = 0
    last: int = LAST
    intended: int | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    resume: Resume | None = None
    descriptors: Mapping[int, int] = field(default_factory=dict)
    meant_to_fault: bool = False
    decreed: bool = False
    source: str = "as asked"
    why: str = "a held TLB entry"


def held_of(finding: Finding) -> tuple[Held, ...]:
    """What must be in the TLB, or used by a walk, for *finding* of a proof to happen.

    Of several the one that ends the run counts; a `decreed` one is last, for what no emulator can
    show. `UnsupportedError` for kinds that show in no single access: a memory type, and the clashes
    that a store prepares (BBM).
    """
    access, outcome, kind = finding.access, finding.outcome, finding.kind
    if kind in (ATTR, BBM):
        raise UnsupportedError(f"{kind}: no access of the run can show it")
    page = access.va & -PAGE
    intended = None if finding.intent is None else finding.intent.output(page)
    base = Held(
        page,
        PAGE,
        None,
        first=access.step,
        last=access.step,
        intended=intended,
        meant_to_fault=kind == NO_FAULT,
        source=f"by a walk with registers from {_step(finding, finding.point)}",
        why=KINDS[kind],
    )
    decreed = replace(base, decreed=True, why=_ALLOWED.get(kind, base.why))
    if isinstance(outcome, Flat):
        why = "the MMU is still off"
        return (replace(base, pa=page, source=why, why=why),)
    if isinstance(outcome, Hit):
        return (_translation(finding, base, outcome.leaf, outcome.permissions),)
    if isinstance(outcome, Clash):
        entries = (outcome.a, outcome.b)
        decreed = replace(decreed, source=_source(finding, *entries))
        return (*(_entry(finding, base, e, outcome.config) for e in entries), decreed)
    if isinstance(outcome, Stale):
        decreed = replace(decreed, source=_source(finding, JUNK if outcome.junk else UNKNOWN))
        return (*(_junk(finding, base) if outcome.junk else ()), decreed)
    return (*_stopped(finding, base, outcome), *((decreed,) if outcome.kind == "junk" else ()))


def _step(finding: Finding, point: int) -> str:
    line = finding.slice.line
    number, steps = line.points[point].step, line.problem.steps
    if 0 <= number < len(steps):
        return f"#{number} {steps[number].text}"
    return "before the first instruction"


def _source(finding: Finding, *entries: Entry) -> str:
    """The steps that *entries* are from."""
    world, number = finding.slice.worlds[finding.point], finding.point
    points = [world[e].point if e in world else number for e in entries]
    return "from " + " and ".join(dict.fromkeys(_step(finding, point) for point in points))


def _translation(finding: Finding, base: Held, leaf: Leaf, permissions: int) -> Held:
    return replace(
        base,
        pa=leaf.translate(base.va),
        permissions=permissions,
        descriptors={leaf.location: leaf.descriptor},
        source=_source(finding, leaf),
    )


def _entry(finding: Finding, base: Held, entry: Leaf | Part, config: Config) -> Held:
    """One of two entries that clash."""
    if isinstance(entry, Leaf):
        return _translation(finding, base, entry, entry.permissions)
    return replace(
        base,
        registers=_mixture(finding, config),
        resume=Resume(entry.level, entry.table, entry.shift, entry.hierarchical),
        descriptors={entry.location: entry.descriptor},
        source=_source(finding, entry),
    )


def _stopped(finding: Finding, base: Held, stop: Stop) -> tuple[Held, ...]:
    """The walk that stops: from the root, which may do, and from the partial walk that it names."""
    read = {} if stop.location is None or stop.value is None else {stop.location: stop.value}
    why = f"{base.why}: level {stop.level}, {stop.reason}"
    walk = replace(base, registers=_mixture(finding, stop.config), descriptors=read, why=why)
    part = stop.parent
    if part is None:
        return (walk,)
    resumed = replace(
        walk,
        resume=Resume(part.level, part.table, _granule(base.va, stop, part), part.hierarchical),
        descriptors={part.location: part.descriptor} | read,
        source=_source(finding, part),
    )
    return walk, resumed


def _granule(va: int, stop: Stop, part: Part) -> int:
    """The granule with which *stop* found its descriptor in the table of *part*."""
    decoder = stop.config.decoder
    assert decoder is not None
    index = va >> decoder.shifts[part.level] & decoder.mask
    return decoder.granule.shift if part.table + index * 8 == stop.location else part.shift


def _junk(finding: Finding, base: Held) -> tuple[Held, ...]:
    """The first walk of the access itself that reads what is not a table."""
    for outcome in finding.slice.outcomes(finding.point):
        if isinstance(outcome, Stop) and outcome.kind == "junk":
            return _stopped(finding, base, outcome)
    return ()


def _mixture(finding: Finding, config: Config) -> dict[str, int]:
    """The register values that the walk used."""
    row, values = ROWS[finding.access.regime], config.values
    mixed = {name: values[name] for name in row.ttbrs if name in values}
    return mixed | {row.tcr: values["TCR"], row.mair: values["MAIR"]}
