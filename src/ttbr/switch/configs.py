"""From what a register may read as, to the walks that the hardware may do with it.

Until a context synchronization event each field of TCR_ELx, SCTLR_ELx and MAIR_ELx reads as any of
its values since the last one, independently for each use (K1.2.4), and TTBR0_ELx with TTBR1_ELx as
one pair (R_DYDPX). A `Config` is one such combination, made into walk parameters by
`ttbr.arch.regime` so that the proof decodes registers as `ttbr.walk` does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ttbr.arch.bits import Register, bits
from ttbr.arch.descriptors import OA_48, OA_64K_LPA, OA_LPA2
from ttbr.arch.features import Features
from ttbr.arch.geometry import GRANULES, LAST_LEVEL, Granule
from ttbr.arch.regime import EL1, EL2, EL20, WalkParams, regime_of
from ttbr.arch.registers import REGISTERS
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.record import replace
from ttbr.walk.translate import _refuse_address

__all__ = [
    "OFF",
    "ROWS",
    "Config",
    "Configurations",
    "Decoder",
    "RegimeRow",
    "Values",
    "initial_fields",
    "sctlr_fields",
]

LIMIT = 4096
_GRANULES = tuple(GRANULES.values())

Values = Mapping[str, tuple[int, ...]]
"""Field name -> the values it may read as, oldest first."""


@dataclass(frozen=True, slots=True)
class RegimeRow:
    """The registers of one regime, and the fields of TCR that decide walks of each half."""

    name: str
    el: int
    layout: str
    halves: tuple[tuple[str, ...], ...]
    unstuck: frozenset[tuple[str, int | None]] = frozenset()

    @property
    def tcr(self) -> str:
        return f"TCR_EL{self.el}"

    @property
    def sctlr(self) -> str:
        return f"SCTLR_EL{self.el}"

    @property
    def mair(self) -> str:
        return f"MAIR_EL{self.el}"

    @property
    def ttbrs(self) -> tuple[str, ...]:
        return tuple(f"TTBR{n}_EL{self.el}" for n in range(len(self.halves)))

    @property
    def fields(self) -> Register:
        """The layout of TCR."""
        return REGISTERS[self.layout]


def _half(n: int) -> tuple[str, ...]:
    own = tuple(f"{name}{n}" for name in ("TG", "EPD", "TBI", "HPD", "SH", "E0PD"))
    return (f"T{n}SZ", *own, "IPS", "HA", "HD", "DS", "AS", "A1")


# TCR_EL1 is permitted to be cached in a TLB except A1, and EPDn when 1 (the register's page);
# the page of TCR_EL2 makes no exception.
ROWS: dict[str, RegimeRow] = {
    EL1: RegimeRow(
        EL1,
        1,
        "TCR_EL1",
        (_half(0), _half(1)),
        frozenset({("A1", None), ("EPD0", 1), ("EPD1", 1)}),
    ),
    EL20: RegimeRow(EL20, 2, "TCR_EL2_E2H", (_half(0), _half(1))),
    EL2: RegimeRow(
        EL2, 2, "TCR_EL2", (("T0SZ", "TG0", "TBI", "HPD", "SH0", "PS", "HA", "HD", "DS"),)
    ),
}


class Decoder:
    """How descriptors are read: everything of a walk but where it starts and for which ASID."""

    def __init__(self, p: WalkParams) -> None:
        self.p = p
        self.granule: Granule = p.granule
        self.wide = p.form.wide
        self.shifts = {level: p.granule.level_shift(level) for level in range(-1, LAST_LEVEL + 1)}
        self.mask = p.granule.entries - 1
        self._variants: dict[int, Decoder] = {p.granule.shift: self}

    def variant(self, shift: int) -> "Decoder":
        """The same controls with the granule of page size ``1 << shift``."""
        found = self._variants.get(shift)
        if found is None:
            granule = next(g for g in _GRANULES if g.shift == shift)
            wide = self.p.form.wide
            form = (OA_64K_LPA if shift == 16 else OA_LPA2) if wide else OA_48
            found = self._variants[shift] = Decoder(
                replace(self.p, granule=granule, form=form, levels=())
            )
        return found

    @cached_property
    def contiguous(self) -> dict[int, int]:
        """Entries of a contiguous run by level."""
        return self.granule.contiguous


@dataclass(frozen=True, slots=True, eq=False)
class Config:
    """One combination of register values, for one half of a regime.

    With the MMU off (`enabled` False) nothing else counts. `why` says why the values are not
    walkable (a reserved TG, T0SZ out of range): every address then faults at level 0. `epd` is
    kept apart from `p`, which has it clear. `values` are the registers' fields, for people.
    """

    enabled: bool
    p: WalkParams | None
    decoder: Decoder | None
    asid: int | None
    why: str
    epd: bool
    cnp: bool
    values: Mapping[str, int]
    environment: bool = False

    def refusal(self, va: int) -> str:
        """Why *va* cannot be translated whatever the tables hold, or an empty string."""
        return self.why if self.p is None else _refuse_address(self.p, va, None)


OFF = Config(False, None, None, None, "", False, False, {})


class Configurations:
    """Makes configs and keeps them, so that equal register values give the same object."""

    def __init__(self, registers: Mapping[str, int], features: Features) -> None:
        self._registers = registers
        self._features = features
        self._configs: dict[object, Config] = {}
        self._decoders: dict[object, Decoder] = {}
        self._sets: dict[object, tuple[Config, ...]] = {}

    def all(
        self, row: RegimeRow, pairs: tuple[tuple[int, int], ...], fields: Values, upper: int
    ) -> tuple[Config, ...]:
        """Every config that the values allow for one half (*upper* is 0 or 1)."""
        names = [*row.halves[upper], "M", "WXN", "MAIR"]
        if not any(fields["DS"]) and f"SH{upper}" in names:
            names.remove(f"SH{upper}")  # SH counts for walks with DS=1 only
        several = tuple((name, fields[name]) for name in names if len(fields[name]) > 1)
        key = (row.name, upper, pairs, tuple(fields[name] for name in names), fields["TCR"][-1])
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = tuple(self._product(row, pairs, fields, several, upper))
        return found

    def _product(
        self,
        row: RegimeRow,
        pairs: tuple[tuple[int, int], ...],
        fields: Values,
        several: tuple[tuple[str, tuple[int, ...]], ...],
        upper: int,
    ) -> Iterable[Config]:
        if 0 in fields["M"]:
            yield OFF
        if 1 not in fields["M"]:
            return
        choices = [(name, values) for name, values in several if name != "M"]
        count = len(pairs)
        for _, values in choices:
            count *= len(values)
        if count > LIMIT:
            names = ", ".join(name for name, _ in choices)
            raise UnsupportedError(
                f"{row.name}: {count} combinations of unsynchronized fields "
                f"(limit {LIMIT}): {names}"
            )
        seen = set()
        for picked in product(*(values for _, values in choices)):
            now = {name: values[-1] for name, values in fields.items()}
            now.update(zip((name for name, _ in choices), picked, strict=True))
            for pair in pairs:
                config = self._config(row, pair, now, upper)
                if id(config) not in seen:
                    seen.add(id(config))
                    yield config

    def _config(
        self, row: RegimeRow, pair: tuple[int, int], now: Mapping[str, int], upper: int
    ) -> Config:
        tcr = now["TCR"]
        for name in row.halves[upper]:
            field = row.fields[name]
            tcr = tcr & ~field.mask | now[name] << field.low
        key = (row.name, upper, pair, tcr, now["WXN"], now["MAIR"])
        config = self._configs.get(key)
        if config is None:
            config = self._configs[key] = self._make(row, pair, tcr, now, upper)
        return config

    def _make(
        self, row: RegimeRow, pair: tuple[int, int], tcr: int, now: Mapping[str, int], upper: int
    ) -> Config:
        registers = dict(self._registers)
        registers |= dict(zip(row.ttbrs, pair, strict=False))
        registers |= {row.tcr: tcr, row.mair: now["MAIR"], row.sctlr: 1 | now["WXN"] << 19}
        regime = regime_of(registers, row.name, self._features)
        half = regime.upper if upper else regime.lower
        if isinstance(half, UnsupportedError):
            raise half
        asid = self._asid(row, pair, tcr)
        ttbr = row.ttbrs[upper]
        values = {ttbr: pair[upper], f"T{upper}SZ": now[f"T{upper}SZ"], "TCR": tcr}
        values |= {"WXN": now["WXN"], "MAIR": now["MAIR"]}
        cnp = bool(pair[upper] & 1)
        if not isinstance(half, WalkParams):
            return Config(True, None, None, asid, str(half), False, cnp, values)
        epd = half.epd
        plain = replace(half, epd=False) if epd else half
        return Config(True, plain, self._decoder(plain), asid, "", epd, cnp, values)

    def _asid(self, row: RegimeRow, pair: tuple[int, int], tcr: int) -> int | None:
        """The current ASID: TCR.A1 says which TTBR holds it, TCR.AS its size. EL2 has none."""
        if len(row.halves) == 1:
            return None
        asid = bits(pair[row.fields["A1"].get(tcr)], 63, 48)
        return asid if row.fields["AS"].get(tcr) else asid & 0xFF

    def _decoder(self, p: WalkParams) -> Decoder:
        key = (p.granule.name, p.form.name, p.output_bits, p.hpd, p.ha, p.hd, p.mair, p.wxn, p.sh)
        found = self._decoders.get((key, p.el0))
        if found is None:
            found = self._decoders[key, p.el0] = Decoder(p)
        return found

    def environment(
        self, row: RegimeRow, registers: Mapping[str, int], upper: int
    ) -> Config | None:
        """The config of another PE, or None where it does not share entries of this half (CnP=0,
        R_LGDJT) or does not walk it as programmed."""
        merged = dict(self._registers) | dict(registers)
        half = regime_of(merged, row.name, self._features)
        p = half.upper if upper else half.lower
        if isinstance(p, UnsupportedError):
            raise p
        pair = tuple(merged.get(name, 0) for name in row.ttbrs)
        if not isinstance(p, WalkParams) or p.epd or not pair[upper] & 1:
            return None
        asid = self._asid(row, (*pair, 0)[:2], merged[row.tcr])  # type: ignore[arg-type]
        values = {row.ttbrs[upper]: pair[upper], f"T{upper}SZ": 64 - p.input_bits}
        return Config(True, p, self._decoder(p), asid, "", False, True, values, environment=True)


def initial_fields(row: RegimeRow, registers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Every field's value at the start; `InvalidError` where the regime's TCR is missing."""
    tcr = registers.get(row.tcr)
    if tcr is None:
        raise InvalidError(f"register {row.tcr} is missing")
    fields: dict[str, tuple[int, ...]] = {f.name: (f.get(tcr),) for f in row.fields.fields}
    sctlr = registers.get(row.sctlr, 5)
    fields |= {"TCR": (tcr,), "MAIR": (registers.get(row.mair, 0),)}
    return fields | {name: (value,) for name, value in sctlr_fields(sctlr).items()}


def sctlr_fields(value: int) -> dict[str, int]:
    """The fields of an SCTLR_ELx value that proofs look at. EIS and EOS count with FEAT_ExS."""
    layout = REGISTERS["SCTLR_EL1"]
    return {name: layout[name].get(value) for name in ("M", "A", "WXN", "C", "EIS", "EOS")}
