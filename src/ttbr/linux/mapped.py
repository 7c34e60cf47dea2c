"""Compare what a plan's tables map, walked under the registers of the plan, with its regions."""

from collections.abc import Iterable, Iterator

from ttbr.arch.attributes import PR, PW, PX, SHAREABILITY
from ttbr.arch.params import WalkParams
from ttbr.arch.regime import EL2, regime_of
from ttbr.build import features_of_params
from ttbr.build.attributes import wanted_permissions
from ttbr.linux.realise import Realised
from ttbr.linux.strategy import Regions, Root
from ttbr.memory.protocol import Memory
from ttbr.walk import Run, runs

__all__ = ["wrongly_mapped"]

PRIVILEGED = PR | PW | PX
# (va, end, output, permissions, MAIR byte, shareability)
Span = tuple[int, int, int, int, int, str]


def wrongly_mapped(made: Realised) -> tuple[str, ...]:
    """A line for each region that the tables do not map as planned, and for what nobody planned.

    Under the level skip each of the two walks reaches more than the regions by design
    (`Realised.exposures`), so there only the regions are looked at.
    """
    found: list[str] = []
    for root, p, memory in _walked(made):
        got = list(_joined(_mapped(memory, p)))
        wanted = list(_joined(_planned(root.regions, p)))
        found += [f"{root.name}: {_text(w)}: {_instead(w, got)}" for w in wanted if _lost(w, got)]
        if made.plan.skip is None:
            extra = [g for g in got if _lost(g, wanted)]
            found += [f"{root.name}: {_text(g)}: mapped, not planned" for g in extra]
    return tuple(dict.fromkeys(found))


def _walked(made: Realised) -> Iterator[tuple[Root, WalkParams, Memory]]:
    """Each root with the registers that it is walked with."""
    boot = _params(made, "boot_ttbr0", "tcr")
    run = _params(made, "run_ttbr0", "run_tcr")
    memory = made.tables[0].memory()
    if made.plan.skip is not None:
        runtime, idmap = made.plan.roots
        yield from ((runtime, run, memory), (idmap, boot, memory))
        return
    yield made.plan.roots[0], boot, memory
    if len(made.plan.roots) > 1:
        yield made.plan.roots[-1], run, made.tables[-1].memory()


def _params(made: Realised, ttbr0: str, tcr: str) -> WalkParams:
    registers = {
        "TTBR0_EL2": made.values[ttbr0],
        "TCR_EL2": made.values[tcr],
        "MAIR_EL2": made.values["mair"],
        "SCTLR_EL2": made.values["sctlr"] | 1,
    }
    features = features_of_params(made.tables[0].params)
    return regime_of(registers, EL2, features).half(0)


def _mapped(memory: Memory, p: WalkParams) -> Iterator[Span]:
    for item in runs(memory, p):
        if isinstance(item, Run):
            leaf = item.leaf
            usable = leaf.permissions & PRIVILEGED if leaf.descriptor >> 10 & 1 else 0
            sh = SHAREABILITY[leaf.shareability]
            yield item.va, item.end, item.output, usable, leaf.attr, sh


def _planned(regions: Regions, p: WalkParams) -> Iterator[Span]:
    for r in sorted(regions, key=lambda region: region.va):
        wanted = wanted_permissions(r.attributes, p.stage) & PRIVILEGED
        yield r.va, r.va + r.size, r.pa, wanted, r.attributes.memory_byte, r.attributes.shareability


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """*spans* with those that continue each other as one."""
    last: Span | None = None
    for span in spans:
        if last is not None and _continues(last, span):
            last = (last[0], span[1], *last[2:])
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _continues(last: Span, span: Span) -> bool:
    alike = last[3:] == span[3:] and last[1] == span[0]
    return alike and span[2] - last[2] == span[0] - last[0]


def _lost(span: Span, among: list[Span]) -> bool:
    """Whether no one of *among* maps all of *span* to the same place in the same way."""
    return not any(
        o[0] <= span[0] and span[1] <= o[1] and o[2] - o[0] == span[2] - span[0]
        and o[3:] == span[3:]
        for o in among
    )  # fmt: skip


def _text(span: Span) -> str:
    letters = "".join(c for c, bit in (("r", PR), ("w", PW), ("x", PX)) if span[3] & bit)
    return f"{span[0]:#x}-{span[1] - 1:#x} -> {span[2]:#x} {letters or 'none'} MAIR {span[4]:#04x}"


def _instead(span: Span, got: list[Span]) -> str:
    there = [g for g in got if g[0] < span[1] and span[0] < g[1]]
    return "mapped as " + "; ".join(map(_text, there[:3])) if there else "not mapped"
