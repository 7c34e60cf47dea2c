"""Random questions: small tables, and programs made of correct sequences with pieces left out.

A program is a chain of moves (switch the root, break-before-make, change T0SZ ...). Each move is
written as it should be; then steps are dropped or swapped with a probability of the program's own,
so that safe and unsafe programs both come up, and those in between.
"""

from random import Random

from concrete_moves import CODE, PAS, RUN, TABLES, Moves
from concrete_registers import REGIMES, Controls
from concrete_walk import Leaf, start_of, walk
from switch_tables import Trace
from ttbr.switch.problem import A_CTRL, A_DSB, A_IC, Environment, Intent, Options, Problem
from ttbr.switch.program import At, Eret, Event, ExceptionEntry, Load, Msr, Store, Tlbi
from ttbr.switch.tlbi import tlbi_by_name

__all__ = ["random_problem"]

_DSB = ("NSH", "NSH", "NSH", "ISH", "ISH", "ISH", "SY", "SY", "NSHST", "LD")
_TG = {"4K": 1, "16K": 2, "64K": 3}
_VECTOR = CODE + 0x800


class _Maker(Moves):
    """The program of a random question, and what its data is meant to reach."""

    def mutate(self) -> None:
        """Leave steps out and swap neighbours."""
        random = self.random
        self.pieces = [
            p
            for p in self.pieces
            if p[0] in ("load", "jump", "enter", "leave") or random.random() >= self.drop
        ]
        for i in range(len(self.pieces) - 1):
            pair = self.pieces[i : i + 2]
            if random.random() < self.swap and not {p[0] for p in pair} & {"enter", "leave"}:
                self.pieces[i : i + 2] = reversed(pair)

    def tlbi(self, t: Trace, kind: str, va: int) -> None:
        """One of the instructions that do what *kind* says."""
        el1 = self.el == 1
        asid = self.asid if el1 else 0
        names = {
            "tlbi all": ("VMALLE1", "VMALLE1IS") if el1 else ("ALLE2",),
            "tlbi last": ("VALE1", "VAALE1IS") if el1 else ("VALE2",),
            "tlbi va": ("VAE1", "VAE1IS", "VAAE1", "ASIDE1", "RVAE1")
            if el1
            else ("VAE2", "VAE2IS", "RVAE2"),
        }[kind]
        name = self.random.choice(names)
        op = tlbi_by_name(name)
        assert op is not None
        operand = 0
        if op.operand:
            operand = asid << 48
        if op.kind.ranged:
            tg = _TG[self.granule] if self.random.random() < 0.8 else self.random.choice((1, 2, 3))
            shift = (12, 14, 16)[tg - 1]
            operand |= tg << 46 | va >> shift & (1 << 37) - 1
        elif op.kind.scope != "ASID" and op.operand:
            operand |= va >> 12 & (1 << 44) - 1
            if self.random.random() < 0.15:
                operand |= (_TG[self.granule] << 2 | self.random.choice((2, 3))) << 44
        t.step(f"tlbi {name.lower()}, {operand:#x}", Tlbi(op, operand))

    def trace(self) -> Trace:
        """The pieces as steps; the last thing is a load of the data."""
        t = Trace(CODE, el=self.el)
        back = 0
        for name, a, b in self.pieces:
            if name in ("ttbr0", "ttbr1", "tcr", "mair", "sctlr"):
                t.msr(self.name(name.upper()), a)
            elif name == "isb":
                t.isb()
            elif name == "dsb":
                t.dsb(self.random.choice(_DSB))
            elif name == "dsb st":
                t.dsb(self.random.choice(("NSHST", "ISHST")))
            elif name.startswith("tlbi"):
                self.tlbi(t, name, a or self.data)
            elif name == "store":
                t.store(a, b)
            elif name.startswith("dc"):
                t.dc(name.partition(" ")[2].upper(), a)
            elif name == "at":
                t.step("at s1e1r", At("S1E1R", self.pointer))
            elif name == "dmb":
                t.dmb()
            elif name == "pan":
                t.pan = a
            elif name == "jump" and t.pc & -self.size != a & -self.size:
                t.br(a + (t.pc & 0x7FF))
            elif name == "load":
                t.ldr(self.pointer)
            elif name == "service" and t.el == 1:
                t.step("hvc", ExceptionEntry(2, None), Eret(t.pc + 4, 1))
            elif name == "enter":
                back = t.pc + 4
                t.call(2, _VECTOR)
            elif name == "leave":
                t.eret(1, back)
        return t.ldr(self.pointer).nop()

    def problem(self) -> Problem:
        random = self.random
        registers = self.registers()
        if not self.on:
            self.flush()
            self.add(("sctlr", self.sctlr(1), 0), ("isb", 0, 0))
        for _ in range(random.choice((1, 1, 2, 3))):
            random.choice(self.moves)()
        self.mutate()
        trace = self.trace()
        pa, attr = self.settle(registers, trace)
        intent = [
            Intent(TABLES, 0x20_0000, TABLES),
            Intent(CODE, self.size, CODE),
            Intent(RUN, self.size, CODE),
            Intent(self.data, self.size, pa, attr=attr),
        ]
        options = Options(
            bbm=random.choice(("0", "0", "0", "1", "2", "2na")),
            ets2=random.random() < 0.2,
            ntlbpa=random.random() < 0.5,
        )
        for strict in (A_IC, A_CTRL, A_DSB):
            if random.random() < 0.1:
                options = options.without(strict)
        environment: tuple[Environment, ...] = ()
        if self.common:
            other = {self.name("TTBR0"): self.ttbr(random.choice(self.roots))}
            environment = (Environment("EL2" if self.el == 2 else "EL1&0", other),)
        memory, extents = self.arena.memory(), self.arena.extents
        return Problem(memory, extents, registers, trace.done, tuple(intent), options, environment)

    # What the data reaches

    def settle(self, registers: dict[str, int], trace: Trace) -> tuple[int, int]:
        """What the data reaches at the end, by the newest values; earlier loads that do not, go."""
        found: list[tuple[int, tuple[int, int] | None]] = []
        controls = Controls(REGIMES["EL2" if self.el == 2 else "EL1&0"], registers)
        stored: dict[int, int] = {}
        for i, step in enumerate(trace.steps):
            for event in step.events:
                if isinstance(event, Load):
                    found.append((i, self.reached(controls, stored)))
                else:
                    self.apply(event, controls, stored)
        last = found[-1][1]
        for i, reached in found[:-1]:
            if reached != last:
                trace.steps[i] = Trace(trace.steps[i].pc, el=self.el).nop().steps[0]
        return last or (PAS[0], 0xFF)

    def apply(self, event: Event, controls: Controls, stored: dict[int, int]) -> None:
        if isinstance(event, Store) and event.value is not None:
            stored[event.va] = event.value
        elif isinstance(event, Msr) and event.value is not None:
            controls.write(event.register, event.value)
            controls.synchronise(False)

    def reached(self, controls: Controls, stored: dict[int, int]) -> tuple[int, int] | None:
        config = controls.choose(self.random, 0.0)
        if not config.m:
            return self.data, 0x00
        va, half = config.canonical(self.pointer)
        root = start_of(config, half)
        if root is None or not config.in_range(va, half):
            return None

        def read(location: int) -> int | None:
            if not TABLES <= location < TABLES + len(self.arena.pages) * self.size:
                return None
            value = stored.get(location)
            return self.arena.get(location) if value is None else value

        leaf = walk(config, half, va, root, half.tg, 0, read, [])
        if not isinstance(leaf, Leaf):
            return None
        pa = leaf.pa + va - leaf.first
        return (pa, leaf.byte) if pa & 0xFFF == 0 else None


def random_problem(seed: int) -> Problem:
    """The random question number *seed*."""
    return _Maker(Random(seed)).problem()
