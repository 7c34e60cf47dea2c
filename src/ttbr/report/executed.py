"""A run on an emulated CPU, instruction by instruction."""

from ttbr.emulate.run import Executed, Outcome

__all__ = ["plain_outcome", "text_outcome"]


def _line(number: int, step: Executed) -> str:
    state = step.state
    mmu = f"TTBR0={state.ttbr0:#x} T0SZ={state.t0sz}" if state.mmu else "MMU off"
    if state.mmu and state.ttbr1 is not None:
        mmu += f" TTBR1={state.ttbr1:#x}"
    where = "?" if step.pa is None else f"{step.pa:#x}"
    at = f"{step.pc:#x}" if step.pa == step.pc else f"{step.pc:#x} -> {where}"
    return f"  {number:3} EL{state.el} {at:30} {step.text:28} {mmu}"


def text_outcome(outcome: Outcome, stale: str | None) -> str:
    """Each instruction with its address, where it was fetched from and what translated; what was
    held in a hostile TLB; the end."""
    lines = [_line(number, step) for number, step in enumerate(outcome.executed)]
    lines += [f"held: {text}" for text in outcome.held]
    lines.append(str(outcome))
    if stale is not None:
        lines.append(f"  {stale}")
    return "\n".join(lines)


def plain_outcome(outcome: Outcome, stale: str | None) -> dict[str, object]:
    """A run as plain values."""
    death = outcome.death
    return {
        "name": outcome.job.name,
        "cpu": outcome.cpu,
        "reached": outcome.reached,
        "until": hex(outcome.job.until),
        "stale": stale,
        "held": list(outcome.held),
        "death": None
        if death is None
        else {
            "pc": hex(death.pc),
            "why": death.why,
            "access": death.access,
            "far": None if death.far is None else hex(death.far),
            "status": death.status,
            "level": death.fault.level if death.fault else None,
            "decreed": death.decreed,
        },
        "executed": [
            {
                "pc": hex(step.pc),
                "pa": None if step.pa is None else hex(step.pa),
                "text": step.text,
                "mmu": step.state.mmu,
                "ttbr0": hex(step.state.ttbr0),
                "ttbr1": None if step.state.ttbr1 is None else hex(step.state.ttbr1),
                "t0sz": step.state.t0sz,
            }
            for step in outcome.executed
        ],
    }
