"""Prove a problem: one pass under one set of assumptions, or a verdict with what it rests on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from ttbr.arch.attributes import PX, UX
from ttbr.errors import InvalidError
from ttbr.switch.cells import below, cells, reaching
from ttbr.switch.judge import KINDS, Finding, Slice, judge
from ttbr.switch.lint import break_before_make
from ttbr.switch.problem import ASSUMPTIONS, Intent, Problem
from ttbr.switch.timeline import Access, Timeline, timeline

__all__ = ["SAFE", "UNSAFE", "Proof", "Result", "prove", "prove_all"]

SAFE, UNSAFE = "SAFE", "UNSAFE"


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One pass: `findings` in order of the trace, none when it is safe.

    `kinds` are the verdict kinds, worst first.
    """

    problem: Problem
    timeline: Timeline
    findings: tuple[Finding, ...]
    slices: tuple[Slice, ...]

    @property
    def safe(self) -> bool:
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        found = {finding.kind for finding in self.findings}
        return tuple(kind for kind in KINDS if kind in found)

    @property
    def verdict(self) -> str:
        return SAFE if self.safe else UNSAFE


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """The verdict of a problem: `result` with all assumptions of its options; when that is safe,
    `assuming` are the assumptions without which it is not, each with its `Result` in `dropped`."""

    result: Result
    assuming: tuple[str, ...]
    dropped: dict[str, Result]

    @property
    def safe(self) -> bool:
        return self.result.safe

    @property
    def verdict(self) -> str:
        """``SAFE``, ``SAFE assuming {A-IC}`` or ``UNSAFE``."""
        if self.safe and self.assuming:
            return f"{SAFE} assuming {{{', '.join(self.assuming)}}}"
        return self.result.verdict


def prove(problem: Problem) -> Result:
    """Judge every access of *problem* under its own options.

    Raises `InvalidError` for what cannot be judged (no intent for an address, a missing register)
    and `UnsupportedError` for what is not modelled.
    """
    line = timeline(problem)
    wanted = list(_wanted(line))
    slices: dict[tuple[str, int], Slice] = {}
    for access, _ in wanted:
        key = (access.regime, access.va & ~0xFFF)
        if key not in slices:
            slices[key] = Slice(line, *key)
    for piece in slices.values():
        piece.run()
    _add_stored(line, slices)
    _share_copies(line, list(slices.values()))
    findings = []
    seen = set()
    for access, intent in wanted:
        page = access.va & ~0xFFF
        key2 = replace(access, step=0, va=page)
        if key2 in seen:
            continue
        seen.add(key2)
        piece = slices[access.regime, page]
        findings += judge(piece, access, intent)
    for piece in slices.values():
        findings += break_before_make(piece)
    return Result(problem, line, tuple(_distinct(findings)), tuple(slices.values()))


def _add_stored(line: Timeline, slices: dict[tuple[str, int], Slice]) -> None:
    """A slice for each stored-to descriptor that no judged address reads from one of the roots, and
    for all that is below a table: for the lint, and for what is copied by physical address."""
    if not line.stored:
        return
    for regime in line.intents:
        read: dict[int, set[int]] = {}
        for piece in slices.values():
            if piece.regime == regime:
                for number, locations in piece.touched.items():
                    configs = line.configs(line.points[number], regime, piece.upper)
                    roots = {c.p.root for c in configs if c.p is not None}
                    if len(roots) == 1:  # else which of them read it is not known
                        read.setdefault(roots.pop(), set()).update(locations)
        for va in chain(reaching(line, regime, read), below(line, regime)):
            slices.setdefault((regime, va & ~0xFFF), Slice(line, regime, va & ~0xFFF))


def _wanted(line: Timeline) -> Iterator[tuple[Access, Intent]]:
    """Every access with its intent: those of the trace, then those that the intent asks for."""
    problem = line.problem
    for access in line.accesses:
        intent = line.intents[access.regime].at(access.va)
        if intent is None:
            where = "after the last step"
            if access.step < len(problem.steps):
                where = str(problem.steps[access.step])
            raise InvalidError(f"{where}: no intent says where {access.va:#x} should lead")
        yield access, intent
    for regime, intents in line.intents.items():
        covered = [i for i in intents.ranges if i.when != "access"]
        for va, intent in cells(line, regime, covered):
            yield from _covered(line, regime, va, intent)


def _covered(
    line: Timeline, regime: str, va: int, intent: Intent
) -> Iterator[tuple[Access, Intent]]:
    """The accesses by which an intent that holds at the end, or always, is judged at *va*."""
    last = (len(line.problem.steps), line.since, len(line.points) - 1)
    windows = {last[1:]: last[0]}
    if intent.when == "always":
        for access in line.accesses:
            if access.regime == regime:
                windows.setdefault((access.since, access.now), access.step)
    needs = [intent.permissions & ~(PX | UX), intent.permissions & (PX | UX)]
    for (since, now), step in windows.items():
        for need in needs:
            if need or not intent.permissions:
                yield Access(step, regime, va, need, since, now), intent


def _share_copies(line: Timeline, pieces: list[Slice]) -> None:
    """Run what has not run; and run again while copies by physical address pass between slices."""
    for piece in pieces:
        if not piece.worlds:
            piece.run()
    if line.problem.options.ntlbpa or not line.stored:
        return
    pools: dict[str, dict[int, set[int]]] = {}
    while _pool(pieces, pools):
        for piece in pieces:
            mine = set().union(*piece.touched.values()) if piece.touched else set()
            pool = {
                number: shared
                for number, locations in pools[piece.regime].items()
                if (shared := (locations & mine) - piece.touched.get(number, frozenset()))
            }
            if pool:
                piece.run(pool)


def _pool(pieces: list[Slice], pools: dict[str, dict[int, set[int]]]) -> bool:
    """Gather what each slice reads at each point; whether that is more than before."""
    grown = False
    for piece in pieces:
        pool = pools.setdefault(piece.regime, {})
        for number, locations in piece.touched.items():
            known = pool.setdefault(number, set())
            grown = grown or not locations <= known
            known |= locations
    return grown


def _distinct(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first finding of each kind and step, in order of the trace."""
    seen = set()
    for finding in sorted(findings, key=lambda f: f.access.step):
        key = (finding.kind, finding.access.step, finding.access.va)
        if key not in seen:
            seen.add(key)
            yield finding


def prove_all(problem: Problem) -> Proof:
    """The verdict with what it assumes: one pass with each assumption dropped, and one with none.

    A proof that needs two assumptions together only (each alone may be dropped) lists both.
    """
    result = prove(problem)
    held = [name for name in ASSUMPTIONS if name in problem.options.assumptions]
    if not result.safe:
        return Proof(result, (), {})
    dropped = {}
    for name in held:
        dropped[name] = prove(replace(problem, options=problem.options.without(name)))
    needed = tuple(name for name in held if not dropped[name].safe)
    if not needed and not prove(replace(problem, options=problem.options.without(*held))).safe:
        needed = tuple(held)
    return Proof(result, needed, dropped)
