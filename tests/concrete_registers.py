"""Registers whose fields are old or new, each by itself, until a context synchronization event."""

from collections.abc import Mapping
from random import Random

__all__ = ["REGIMES", "Config", "Controls", "Half", "Regime"]

_ONE_RANGE = {
    "T0SZ": (0, 6),
    "IRGN0": (8, 2),
    "ORGN0": (10, 2),
    "SH0": (12, 2),
    "TG0": (14, 2),
    "PS": (16, 3),
    "TBI0": (20, 1),
    "HA": (21, 1),
    "HPD0": (24, 1),
    "DS": (32, 1),
}
_TWO_RANGES = {
    "T0SZ": (0, 6),
    "EPD0": (7, 1),
    "IRGN0": (8, 2),
    "ORGN0": (10, 2),
    "SH0": (12, 2),
    "TG0": (14, 2),
    "T1SZ": (16, 6),
    "A1": (22, 1),
    "EPD1": (23, 1),
    "IRGN1": (24, 2),
    "ORGN1": (26, 2),
    "SH1": (28, 2),
    "TG1": (30, 2),
    "PS": (32, 3),
    "AS": (36, 1),
    "TBI0": (37, 1),
    "TBI1": (38, 1),
    "E0PD0": (55, 1),
    "E0PD1": (56, 1),
    "HA": (39, 1),
    "HPD0": (41, 1),
    "HPD1": (42, 1),
    "DS": (59, 1),
}
_SCTLR = {"M": (0, 1), "C": (2, 1), "WXN": (19, 1)}
_TG = ({0: 12, 1: 16, 2: 14}, {2: 12, 3: 16, 1: 14})
_PS_BITS = (32, 36, 40, 42, 44, 48, 52, 52)
_NOT_CACHED = ("M", "C", "A1")  # register pages: every other field may be cached in a TLB


class Regime:
    """A translation regime: its register names, and whether it has two VA ranges and ASIDs."""

    def __init__(self, name: str, el: int, two: bool) -> None:
        self.name = name
        self.two = two
        self.ttbr = (f"TTBR0_EL{el}", f"TTBR1_EL{el}")
        self.tcr = f"TCR_EL{el}"
        self.sctlr = f"SCTLR_EL{el}"
        self.mair = f"MAIR_EL{el}"
        self.fields = _TWO_RANGES if two else _ONE_RANGE


REGIMES = {r.name: r for r in (Regime("EL2", 2, False), Regime("EL1&0", 1, True))}


class Half:
    """One VA range under one configuration: where and how its walks start."""

    __slots__ = (
        "base",
        "cacheable",
        "e0pd",
        "epd",
        "hpd",
        "legal",
        "sh",
        "start",
        "tbi",
        "tg",
        "tsz",
        "width",
    )

    def __init__(self, f: Mapping[str, int], n: str, ttbr: int) -> None:
        self.tsz = f[f"T{n}SZ"]
        tg = _TG[int(n)].get(f[f"TG{n}"])
        self.tg = tg or 12
        self.epd = f.get(f"EPD{n}", 0)
        self.tbi = f.get(f"TBI{n}", 0)
        self.hpd = f.get(f"HPD{n}", 0)
        self.sh = f[f"SH{n}"]
        self.e0pd = f.get(f"E0PD{n}", 0)
        self.cacheable = int(f["C"] and f[f"IRGN{n}"] != 0 and f[f"ORGN{n}"] != 0)
        wide = f["PS"] == 6 and (self.tg == 16 or f["DS"] == 1)
        least = 12 if (f["PS"] == 6 if self.tg == 16 else f["DS"]) else 16
        self.legal = tg is not None and least <= self.tsz <= 39
        if not self.legal:
            self.start = self.width = self.base = 0
            return
        stride = self.tg - 3
        self.start = 4 - -(-(64 - self.tsz - self.tg) // stride)
        self.width = 64 - self.tsz - (self.tg + (3 - self.start) * stride)
        base = ttbr & 0xFFFF_FFFF_FFC0 | (ttbr >> 2 & 15) << 48 if wide else ttbr & 0xFFFF_FFFF_FFFE
        self.base = base & -(8 << self.width)


class Config:
    """One choice of a value for every field: what a single walk or lookup goes by."""

    __slots__ = (
        "asid",
        "c",
        "cnp",
        "ds",
        "ha",
        "halves",
        "m",
        "mair",
        "pabits",
        "text",
        "two",
        "wxn",
    )

    def __init__(self, f: Mapping[str, int], pair: tuple[int, int], two: bool) -> None:
        self.two = two
        self.m = f["M"]
        self.c = f["C"]
        self.wxn = f["WXN"]
        self.mair = f["MAIR"]
        self.ds = f["DS"]
        self.ha = f["HA"]
        self.pabits = _PS_BITS[f["PS"]]
        self.halves = [Half(f, "0", pair[0])]
        self.asid = 0
        self.cnp = pair[0] & 1
        self.text = f"TTBR0={pair[0]:#x} T0SZ={f['T0SZ']}"
        if two:
            self.halves.append(Half(f, "1", pair[1]))
            self.asid = pair[f["A1"]] >> 48 & (0xFFFF if f["AS"] else 0xFF)
            self.cnp |= pair[1] & 1
            self.text += f" TTBR1={pair[1]:#x} T1SZ={f['T1SZ']} ASID={self.asid}"

    def canonical(self, va: int) -> tuple[int, Half]:
        """*va* as the TLB compares it (TBI removes the tag), and the range it selects."""
        high = va >> 55 & 1 if self.two else 0
        half = self.halves[high]
        if half.tbi:
            va = va | 0xFF << 56 if high else va & ~(0xFF << 56)
        return va, half

    def in_range(self, va: int, half: Half) -> bool:
        """Whether *va* is within the range, and the range itself legal (D8.1.9)."""
        if not half.legal:
            return False
        top = va >> (64 - half.tsz)
        high = self.two and half is self.halves[1]
        return top == ((1 << half.tsz) - 1 if high else 0)


_CONFIGS: dict[tuple[object, ...], Config] = {}


class Controls:
    """The registers of one regime: the values of each field since the last CSE, newest last.

    The TTBRs are kept as pairs, one a write: a walk reads both at one point of that order. `sticky`
    holds superseded values that stay usable until a TLBI (the strict reading of K1.2.3), each with
    the TLBIs that end it.
    """

    def __init__(self, regime: Regime, registers: Mapping[str, int]) -> None:
        self.regime = regime
        self.pairs = [(registers.get(regime.ttbr[0], 0), registers.get(regime.ttbr[1], 0))]
        self.fields: dict[str, list[int]] = {}
        for name, value in self._split(regime.tcr, registers.get(regime.tcr, 0)).items():
            self.fields[name] = [value]
        for name, value in self._split(regime.sctlr, registers.get(regime.sctlr, 0)).items():
            self.fields[name] = [value]
        self.fields["MAIR"] = [registers.get(regime.mair, 0)]
        self.sticky: dict[str, list[list[int]]] = {}
        self.settled: Config | None = None
        self.used = 0

    def _split(self, register: str, value: int) -> dict[str, int]:
        rows = self.regime.fields if register == self.regime.tcr else _SCTLR
        return {name: value >> low & (1 << n) - 1 for name, (low, n) in rows.items()}

    def write(self, register: str, value: int) -> None:
        """MSR: the new value may be used from now on, the old one still is."""
        regime = self.regime
        self.settled = None
        if register in regime.ttbr:
            pair = list(self.pairs[-1])
            pair[regime.ttbr.index(register)] = value
            self.pairs.append((pair[0], pair[1]))
        elif register == regime.mair:
            self._append("MAIR", value)
        else:
            for name, part in self._split(register, value).items():
                self._append(name, part)

    def _append(self, name: str, value: int) -> None:
        values = self.fields[name]
        if values[-1] != value:
            values.append(value)

    def synchronise(self, sticky: bool) -> None:
        """A CSE: only the newest values are left, apart from those that stick in the TLB."""
        on = 1 in self.fields["M"]
        for name, values in self.fields.items():
            if len(values) > 1:
                if sticky and on and name not in _NOT_CACHED:
                    stale = [[v, 0] for v in values[:-1] if not (name.startswith("EPD") and v)]
                    if stale:
                        self.sticky.setdefault(name, []).extend(stale)
                del values[:-1]
                self.settled = None
        if len(self.pairs) > 1:
            del self.pairs[:-1]
            self.settled = None

    def doom(self, tlbi: int) -> None:
        """A TLBI of everything is issued: it ends what sticks now."""
        for kept in self.sticky.values():
            for item in kept:
                item[1] |= tlbi

    def forget(self, tlbis: int) -> None:
        """These TLBIs are complete."""
        for name in list(self.sticky):
            left = [item for item in self.sticky[name] if not item[1] & tlbis]
            if left:
                self.sticky[name] = left
            else:
                del self.sticky[name]
        self.settled = None

    def may_be_on(self) -> bool:
        """Whether SCTLR.M may read as 1."""
        return 1 in self.fields["M"]

    def choose(self, random: Random, old: float, on: bool = False) -> Config:
        """One value for every field, older ones with probability *old*; M = 1 if *on*.

        `used` tells then which TLBIs end a sticky value among them.
        """
        self.used = 0
        if self.settled is not None:
            return self.settled
        pairs = self.pairs
        n = len(pairs)
        pair = pairs[-1 if n == 1 or random.random() >= old else random.randrange(n)]
        chosen = {name: values[-1] for name, values in self.fields.items()}
        fixed = n == 1 and not self.sticky
        for name, values in self.fields.items():
            if len(values) > 1:
                fixed = False
                if random.random() < old:
                    chosen[name] = values[random.randrange(len(values) - 1)]
        for name, kept in self.sticky.items():
            if random.random() < old:
                stale, doom = kept[random.randrange(len(kept))]
                self.used |= doom
                if name != "MAIR" and random.random() < 0.5:  # or an amalgam of both (K1.2.3)
                    stale ^= (stale ^ chosen[name]) & random.getrandbits(6)
                chosen[name] = stale
        if on:
            chosen["M"] = 1
        key = (self.regime.name, pair, *chosen.values())
        config = _CONFIGS.get(key)
        if config is None:
            config = _CONFIGS[key] = Config(chosen, pair, self.regime.two)
        if fixed and (not on or self.fields["M"][-1]):
            self.settled = config
        return config
