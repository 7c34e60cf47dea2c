"""A proof as text and as plain values: verdict, counterexamples, repairs, barriers, exposure."""

from dataclasses import replace

from ttbr.switch.explain import drop_one, explain, repair
from ttbr.switch.exposure import EXPOSURES, Exposure, exposure
from ttbr.switch.problem import ASSUMPTIONS
from ttbr.switch.prove import Proof, Result, prove
from ttbr.switch.wording import (
    barrier_lines,
    config_text,
    explanation_lines,
    proof_lines,
    repair_line,
    repair_text,
)

__all__ = ["barriers", "counterexamples", "exposures", "plain", "policies", "summary"]

_SHOWN = 8


def summary(proof: Proof) -> list[str]:
    """The verdict, and for an unsafe trace a line for each kind."""
    name = proof.result.timeline.problem.name
    lines = proof_lines(proof)
    return [f"{name}: {lines[0]}" if name else lines[0], *lines[1:]]


def policies(proof: Proof) -> list[str]:
    """The verdict with each assumption dropped, and what each assumption says."""
    lines = []
    problem = proof.result.problem
    for name, meaning in ASSUMPTIONS.items():
        if name not in problem.options.assumptions:
            continue
        less = replace(problem, options=problem.options.without(name))
        result = proof.dropped.get(name) or prove(less)
        verdict = "SAFE" if result.safe else ", ".join(result.kinds)
        lines.append(f" without {name}: {verdict}  ({meaning})")
    return lines


def counterexamples(proof: Proof) -> list[str]:
    """The first finding of each kind of an unsafe trace with its history, and a repair."""
    result = proof.result
    if result.safe:
        return []
    lines: list[str] = []
    firsts = {finding.kind: finding for finding in reversed(result.findings)}
    for index, kind in enumerate(result.kinds):
        lines += ["", *explanation_lines(result, explain(firsts[kind]))]
        if index == 0:
            lines.append(repair_line(result, repair(result)))
    return lines


def barriers(proof: Proof) -> list[str]:
    """Which barriers carry the proof of a safe trace."""
    if not proof.result.safe:
        return []
    return ["", *barrier_lines(drop_one(proof.result.timeline.problem))]


def exposures(proof: Proof) -> list[str]:
    """What speculation may reach, one line each."""
    found = exposure(proof.result.timeline)
    lines = [""]
    if not proof.result.problem.devices:
        lines.append("no Device memory is given: Normal mappings of it are not looked for")
    if not found:
        return [*lines, "speculation reaches nothing but what is mapped on purpose"]
    return [
        *lines,
        *(
            f"{item.kind} at {item.va:#x}, {item.size:#x} bytes, {config_text(item.config)}: "
            f"{EXPOSURES[item.kind]} ({item.target:#x})"
            for item in found[:_SHOWN]
        ),
        *([f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []),
    ]


def _plain_findings(result: Result) -> list[dict[str, object]]:
    return [
        {
            "kind": finding.kind,
            "step": finding.access.step,
            "va": hex(finding.access.va),
            "fetch": finding.access.fetch,
            "explanation": explanation_lines(result, explain(finding)),
        }
        for finding in result.findings
    ]


def _plain_exposure(item: Exposure) -> dict[str, object]:
    numbers = {"va": item.va, "size": item.size, "target": item.target, "location": item.location}
    return {
        "kind": item.kind,
        "regime": item.regime,
        **{name: hex(value) for name, value in numbers.items()},
        "level": item.level,
        "under": config_text(item.config),
    }


def plain(proof: Proof, exposed: bool = False) -> dict[str, object]:
    """A proof as plain values; with *exposed* also what speculation may reach."""
    result = proof.result
    fix = None if result.safe else repair(result)
    problem = result.timeline.problem
    return {
        "name": problem.name,
        "verdict": proof.verdict,
        "assuming": list(proof.assuming),
        "kinds": list(result.kinds),
        "policies": {name: list(dropped.kinds) for name, dropped in proof.dropped.items()},
        "steps": [
            {"pc": hex(step.pc), "text": step.text, "where": step.where} for step in problem.steps
        ],
        "findings": _plain_findings(result),
        "repair": None if fix is None else repair_text(result, fix),
        "barriers": [
            {"step": b.step, "text": b.text, "carries": b.carries, "kinds": list(b.kinds)}
            for b in (drop_one(problem) if result.safe else ())
        ],
        **(
            {"exposure": [_plain_exposure(item) for item in exposure(result.timeline)]}
            if exposed
            else {}
        ),
    }
