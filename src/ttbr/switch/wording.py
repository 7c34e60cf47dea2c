"""The proof in words: lines of text from findings, explanations, repairs and barriers."""

from collections.abc import Iterator

from ttbr.arch.attributes import PW, PX, UR, UW, UX, memory_text, permission_text
from ttbr.switch.configs import Config
from ttbr.switch.explain import Barrier, Explanation, Fetched, History, Repair
from ttbr.switch.judge import KINDS, Clash, Finding, Flat, Hit
from ttbr.switch.prove import Proof, Result
from ttbr.switch.saturate import Stop
from ttbr.switch.tlb import Entry, Leaf, Part, Unknown

__all__ = [
    "barrier_lines",
    "config_text",
    "entry_text",
    "explanation_lines",
    "proof_lines",
    "repair_line",
    "repair_text",
]

_SHOWN = 12  # steps in a line

_LIMITS = {1 << 62: "APTable[1]", 1 << 61: "APTable[0]", 1 << 60: "UXNTable", 1 << 59: "PXNTable"}


def access_text(need: int) -> str:
    """What an access is, from its permission bit."""
    name = "fetch" if need & (PX | UX) else "write" if need & (PW | UW) else "read"
    return f"EL0 {name}" if need & (UR | UW | UX) else name


def step_text(result: Result, number: int) -> str:
    """``#6 ldr x0, [x1]``, or the start or end of the trace."""
    steps = result.problem.steps
    if number < 0:
        return "#0 (before the first instruction)"
    if number >= len(steps):
        return f"#{number} (after the last instruction)"
    where = f"  ({steps[number].where})" if steps[number].where else ""
    return f"#{number} {steps[number].text}{where}"


def config_text(config: Config | None) -> str:
    """The registers that a walk used."""
    if config is None:
        return "unknown registers"
    if not config.enabled:
        return "MMU off"
    names = [n for n in config.values if n not in ("TCR", "WXN", "MAIR")]
    shown = [
        f"{name}={config.values[name]:#x}"
        if name.startswith("TTBR")
        else f"{name}={config.values[name]}"
        for name in names
    ]
    if config.p is not None:
        shown.append(config.p.granule.name)
    other = "another PE's " if config.environment else ""
    return other + " ".join(shown)


def entry_text(entry: Entry, regime: str) -> str:
    """One TLB entry."""
    if isinstance(entry, Leaf):
        tag = "" if regime == "EL2" else ", global" if entry.tag is None else f", ASID {entry.tag}"
        size = f"level {entry.level}{', contiguous' if entry.span != entry.size else ''}"
        return (
            f"leaf {entry.va:#x} -> {entry.translate(entry.va):#x} {memory_text(entry.attr)} "
            f"{permission_text(entry.permissions, regime != 'EL2')} ({size}{tag})"
        )
    if isinstance(entry, Part):
        tag = "" if entry.tag is None else f", ASID {entry.tag}"
        limits = [name for bit, name in _LIMITS.items() if entry.hierarchical & bit]
        under = f" under {' '.join(limits)}" if limits else ""
        return (
            f"partial walk of {entry.va:#x}: go on at level {entry.level} in "
            f"{entry.table:#x}{under}{tag}"
        )
    junk = isinstance(entry, Unknown) and entry.junk
    return "whatever a walk of junk made" if junk else "anything"


def _path(path: tuple[Fetched, ...]) -> str:
    return " -> ".join(f"L{f.level}@{f.location:#x}={f.value:#x}" for f in path)


def _outcome(finding: Finding) -> str:
    outcome, regime = finding.outcome, finding.access.regime
    if isinstance(outcome, Flat):
        return f"PA {finding.access.va:#x}, MMU off"
    if isinstance(outcome, Hit):
        pa = outcome.output + (finding.access.va & 0xFFF)
        rights = permission_text(outcome.permissions, regime != "EL2")
        return f"PA {pa:#x} {memory_text(outcome.attr)} {rights}"
    if isinstance(outcome, Stop):
        at = "" if outcome.location is None else f" at {outcome.location:#x}"
        return f"{outcome.reason}, level {outcome.level}{at}, under {config_text(outcome.config)}"
    if isinstance(outcome, Clash):
        return f"{entry_text(outcome.a, regime)} with {entry_text(outcome.b, regime)}"
    made = "what a walk of junk cached" if outcome.junk else "any entry from before"
    return f"{made}, under {config_text(outcome.config)}"


def _history(result: Result, history: History, regime: str, indent: str) -> Iterator[str]:
    after = "" if history.step < 0 else "after "
    made = f"{after}{step_text(result, history.step)}"
    if history.config is None:
        yield f"{indent}{made}: left from before (reset does not invalidate)"
    else:
        yield f"{indent}{made}: walk under {config_text(history.config)}"
    if history.resumed is not None:
        yield from _history(result, history.resumed, regime, indent + "  ")
    path = _path(history.path)
    if history.junk is not None:
        path = " -> ".join([*([path] if path else []), f"{history.junk:#x}, which is no table"])
    if path:
        yield f"{indent}  {path}"
    yield f"{indent}  cached: {entry_text(history.entry, regime)}"
    for step, why in history.survived:
        yield f"{indent}  {step_text(result, step)}: {why}"


def explanation_lines(result: Result, explanation: Explanation) -> list[str]:
    """The counterexample as a kernel engineer reads it."""
    finding = explanation.finding
    access = finding.access
    address = access.tagged or access.va
    what = "a store" if finding.kind == "BBM" else f"{access_text(access.need)} of {address:#x}"
    lines = [
        f"{finding.kind}  at {step_text(result, access.step)}",
        f" {what}: {KINDS[finding.kind]}",
    ]
    if finding.intent is not None:
        meant = finding.intent.output(access.va)
        goal = "unmapped" if meant is None else f"PA {meant:#x} {memory_text(finding.intent.attr)}"
        lines.append(f" intended  {goal}")
    lines.append(f" possible  {_outcome(finding)}")
    cause = result.timeline.points[finding.point]
    if finding.kind != "BBM" and finding.point != access.now:
        lines.append(f" translated already after {step_text(result, cause.step)}")
    for history in explanation.histories:
        lines.append(" how")
        lines += _history(result, history, access.regime, "   ")
    return lines + [f" rule      {rule}" for rule in explanation.rules]


def repair_line(result: Result, fix: Repair | None) -> str:
    """The repair that was found, or that none was."""
    if fix is None:
        return (
            " fix       none: no single insertion or move of barriers, TLBIs and DCs makes it safe"
        )
    return f" fix       {repair_text(result, fix)}  [re-checked: {fix.verdict}]"


def repair_text(result: Result, fix: Repair) -> str:
    """``insert isb before #4 …``, ``use tlbi vae1is, x0 instead of #4 …``."""
    what = " ; ".join(fix.texts)
    target = step_text(result, fix.step)
    if fix.what == "replace":
        return f"use {what} instead of {target}"
    if fix.what == "insert":
        return f"insert {what} before {target}"
    return f"move #{fix.origin} {what} before {target}"


def barrier_lines(barriers: tuple[Barrier, ...]) -> list[str]:
    """The drop-one table of a safe trace."""
    return [
        f"#{b.step} {b.text}: " + (f"without it {_without(b)}" if b.carries else "redundant here")
        for b in barriers
    ]


def _without(barrier: Barrier) -> str:
    if barrier.kinds:
        return ", ".join(barrier.kinds)
    return f"SAFE only assuming {{{', '.join(barrier.assuming)}}} as well"


def proof_lines(proof: Proof) -> list[str]:
    """The verdict, a line for each assumption, and for each kind where it is found first."""
    lines = [proof.verdict]
    for name in proof.assuming:
        kinds = ", ".join(proof.dropped[name].kinds)
        lines.append(f" without {name}: {kinds}" if kinds else f" {name} together with the others")
    for kind in proof.result.kinds:
        first, *others = (f for f in proof.result.findings if f.kind == kind)
        where = step_text(proof.result, first.access.step)
        lines.append(f" {kind} at {where}: {_outcome(first)}")
        steps = dict.fromkeys(f.access.step for f in others if f.access.step != first.access.step)
        if steps:
            shown = ", ".join(f"#{number}" for number in list(steps)[:_SHOWN])
            more = f" and {len(steps) - _SHOWN} more steps" if len(steps) > _SHOWN else ""
            lines.append(f"  and at {shown}{more}")
    return lines
