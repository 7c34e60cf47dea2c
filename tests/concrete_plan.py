"""What a run of the simulator aims at: the accesses of a scenario, and habits of choice."""

from random import Random

from concrete_scenario import Scenario
from ttbr.switch.program import Dsb, Eret, ExceptionEntry, Isb, Load, Msr, Store, Tlbi

__all__ = ["SYNCHRONISING", "Habits", "Key", "Plan"]

SYNCHRONISING = (Isb, ExceptionEntry, Eret)
"""Context synchronization events (FEAT_ExS not used)."""
_CHANGES = (Msr, Store, Tlbi, Dsb, Isb)

Key = tuple[int, int]


class Plan:
    """What can be prepared once for all runs of a scenario: its accesses and where they may move.

    An access is known by (step, event); event -1 is the fetch. `ahead[i]` lists those that may be
    translated when step i - 1 is done: up to the next context synchronization event.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.va: dict[Key, int] = {}
        ends: list[int] = []
        for i, step in enumerate(scenario.steps):
            self.va[i, -1] = step.pc
            for k, event in enumerate(step.events):
                if isinstance(event, Load | Store):
                    self.va[i, k] = event.va
            if any(isinstance(e, SYNCHRONISING) for e in step.events):
                ends.append(i)
        last = len(scenario.steps) - 1
        self.ahead: list[list[Key]] = []
        for i in range(last + 2):
            end = next((e for e in ends if e >= i), last)
            keys = [k for k in self.va if i <= k[0] <= end]
            self.ahead.append([k for k in keys if not (scenario.ets2 and k[1] >= 0)])
        pages = {va & ~0xFFF for va in self.va.values()}
        self.pages = sorted(pages)
        loads = {e.va & ~0xFFF for s in scenario.steps for e in s.events if isinstance(e, Load)}
        self.targets = self.pages + sorted(loads) * len(pages)
        self.by_page: dict[int, list[Key]] = {}
        for key, va in self.va.items():
            self.by_page.setdefault(va & ~0xFFF, []).append(key)
        self.points = [
            i
            for i, s in enumerate(scenario.steps)
            if any(isinstance(e, _CHANGES) for e in s.events)
        ] or [0]
        self.contiguous = any(w >> 52 & 1 and w & 1 for w in scenario.words.values()) or any(
            isinstance(e, Store) and e.value is not None and e.value >> 52 & 1
            for s in scenario.steps
            for e in s.events
        )


class Habits:
    """How a run likes to choose; probabilities, drawn anew for each run."""

    __slots__ = ("ahead", "bursts", "copy", "leaf", "miss", "old", "part", "resume", "walk")

    def __init__(self, random: Random, points: list[int]) -> None:
        pick = random.choice
        self.walk = pick((0.1, 0.4, 0.8))
        self.old = pick((0.15, 0.5, 0.85))
        self.leaf = pick((0.3, 0.9, 0.9))
        self.part = pick((0.1, 0.5, 0.9))
        self.copy = pick((0.0, 0.0, 0.4))
        self.resume = pick((0.1, 0.5, 0.9))
        self.miss = pick((0.0, 0.0, 0.1, 0.5))
        self.ahead = pick((0.0, 0.1, 0.5))
        self.bursts = {pick(points) for _ in range(pick((0, 1, 2, 2, len(points))))}
