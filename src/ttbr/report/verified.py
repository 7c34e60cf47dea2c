"""The table of `ttbr verify`: what was planned, proved, run and probed, and whether they agree."""

from ttbr.emulate.verify import Ran, Verified

__all__ = ["plain_verified", "text_verified"]

LINES = 8  # of what is mapped wrongly


def _planned(v: Verified) -> str:
    """What was planned; why it does not work."""
    plan = v.plan
    name = f"{plan.strategy.name} with the rules of Linux {plan.config.release}"
    if not plan.applicable:
        return f"{name}, which does not work: {plan.why_not}"
    if not plan.roots:
        return name
    return f"{name}, T0SZ {plan.boot_t0sz} then {plan.run_t0sz}"


def _proved(v: Verified) -> str:
    if v.proof is None:
        return "nothing: the kernel does not go so far as to switch"
    kinds = f" ({', '.join(v.proof.result.kinds)})" if v.proof.result.kinds else ""
    what = "" if v.plan.applicable else f"{v.switch}: "
    return f"{what}{v.proof.verdict}{kinds}"


def _ran(ran: Ran) -> list[tuple[str, str]]:
    ended = f"not possible: {ran.why_not}" if ran.outcome is None else str(ran.outcome)
    rows = [(f"run on {ran.emulator}", ended)]
    if ran.stale:
        rows.append(("", ran.stale))
    probes = sum(report.probes for report in ran.probed)
    if probes:
        rows.append((f"probed on {ran.emulator}", f"{probes} AT, {ran.differences} differ"))
    elif ran.not_probed:
        rows.append((f"probed on {ran.emulator}", f"not possible: {ran.not_probed}"))
    return rows


def text_verified(v: Verified) -> str:
    """One line a step, and the conclusion."""
    rows = [("planned", _planned(v)), ("proved", _proved(v))]
    if v.wrong is not None:
        rows.append(("mapped", v.wrong[0] if v.wrong else "as planned"))
        rows += [("", line) for line in v.wrong[1:LINES]]
    for ran in v.ran:
        rows += _ran(ran)
    rows.append(("conclusion", _conclusion(v)))
    return "\n".join(f"{title:18}{text}" for title, text in rows)


def _conclusion(v: Verified) -> str:
    if v.contradictions:
        return "; ".join(v.contradictions)
    if not v.plan.applicable:
        return "no contradiction, but the plan does not work"
    if not v.works:
        return "no contradiction, but the plan is not safe"
    return "all agree"


def plain_verified(v: Verified) -> dict[str, object]:
    """The same as plain values."""
    return {
        "strategy": v.plan.strategy.name,
        "why_not": v.plan.why_not or None,
        "t0sz": [v.plan.boot_t0sz, v.plan.run_t0sz],
        "switch": v.switch or None,
        "verdict": None if v.proof is None else v.proof.verdict,
        "kinds": [] if v.proof is None else list(v.proof.result.kinds),
        "ran": [
            {
                "emulator": ran.emulator,
                "reached": None if ran.outcome is None else ran.outcome.reached,
                "end": ran.why_not if ran.outcome is None else str(ran.outcome),
                "stale": ran.stale,
                "probes": sum(report.probes for report in ran.probed),
                "not_probed": ran.not_probed or None,
                "differences": ran.differences,
            }
            for ran in v.ran
        ],
        "mapped_wrongly": list(v.wrong or ()),
        "contradictions": list(v.contradictions),
    }
