"""The table of `ttbr verify`: what was planned, proved, run and probed, and whether they agree."""

from ttbr.emulate.verify import Verified

__all__ = ["plain_verified", "text_verified"]

LINES = 8  # of what is mapped wrongly


def text_verified(v: Verified) -> str:
    """One line a step, and the conclusion."""
    plan = v.plan
    kinds = f" ({', '.join(v.proof.result.kinds)})" if v.proof.result.kinds else ""
    name = f"{plan.strategy.name} with the rules of Linux {plan.config.release}"
    rows = [
        ("planned", f"{name}, T0SZ {plan.boot_t0sz} then {plan.run_t0sz}"),
        ("proved", f"{v.proof.verdict}{kinds}"),
        ("mapped", v.wrong[0] if v.wrong else "as planned"),
        *(("", line) for line in v.wrong[1:LINES]),
    ]
    for ran in v.ran:
        ended = f"not possible: {ran.why_not}" if ran.outcome is None else str(ran.outcome)
        rows.append((f"run on {ran.emulator}", ended))
        if ran.stale:
            rows.append(("", ran.stale))
        probes = sum(report.probes for report in ran.probed)
        if probes:
            rows.append((f"probed on {ran.emulator}", f"{probes} AT, {ran.differences} differ"))
    rows.append(("conclusion", _conclusion(v)))
    return "\n".join(f"{title:18}{text}" for title, text in rows)


def _conclusion(v: Verified) -> str:
    if v.contradictions:
        return "; ".join(v.contradictions)
    if not v.proof.result.safe:
        return "no contradiction, but the plan is not safe"
    return "all agree"


def plain_verified(v: Verified) -> dict[str, object]:
    """The same as plain values."""
    return {
        "strategy": v.plan.strategy.name,
        "t0sz": [v.plan.boot_t0sz, v.plan.run_t0sz],
        "verdict": v.proof.verdict,
        "kinds": list(v.proof.result.kinds),
        "ran": [
            {
                "emulator": ran.emulator,
                "reached": None if ran.outcome is None else ran.outcome.reached,
                "end": ran.why_not if ran.outcome is None else str(ran.outcome),
                "stale": ran.stale,
                "probes": sum(report.probes for report in ran.probed),
                "differences": ran.differences,
            }
            for ran in v.ran
        ],
        "mapped_wrongly": list(v.wrong),
        "contradictions": list(v.contradictions),
    }
