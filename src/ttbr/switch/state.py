"""The values that the machine passes through: registers, pending TLBIs, points of the program."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ttbr.switch.configs import RegimeRow
from ttbr.switch.tlb import Invalidation

__all__ = [
    "DRAINING",
    "IN",
    "OUT",
    "Pending",
    "Point",
    "Registers",
    "stuck",
    "with_sticky",
]

_RESERVED_SIZE = 7  # TCR_ELx.{I}PS
IN, DRAINING, OUT = "in context", "draining", "out of context"


@dataclass(frozen=True, slots=True)
class Registers:
    """One regime's registers, and `sticky`: values that only a TLBI ends (without A-CTRL)."""

    pairs: tuple[tuple[int, int], ...]
    fields: Mapping[str, tuple[int, ...]]
    walking: str
    sticky: Mapping[str, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pending:
    """A TLBI that is not complete; `ordered` once a DSB has followed it. See `Registers.sticky`."""

    tlbi: Invalidation
    sticky: Mapping[str, frozenset[int]]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """The state between two events, as far as the TLB of any address depends on it.

    `step` is the step whose event led here (-1: the start). `visible` are the values that a walk of
    each regime may see at each stored-to location, `ordered` those that it may see for an access
    after the store with FEAT_ETS2; `changed` are the locations of which that may have changed since
    the point before. `issued` and `completed` are what the event did to TLBIs, `stored` the
    descriptors it wrote, as (location, value).
    """

    number: int
    step: int
    cause: str
    registers: Mapping[str, Registers]
    visible: Mapping[str, Mapping[int, tuple[int, ...]]]
    ordered: Mapping[str, Mapping[int, tuple[int, ...]]]
    changed: frozenset[int]
    issued: Invalidation | None
    completed: tuple[int, ...]
    stored: tuple[tuple[int, int], ...]
    pending: tuple[Pending, ...]


def with_sticky(
    row: RegimeRow, fields: Mapping[str, tuple[int, ...]], sticky: Mapping[str, frozenset[int]]
) -> dict[str, tuple[int, ...]]:
    """The fields with the values that may linger, and bit-wise mixtures of them (K1.2.3)."""
    found = dict(fields)
    for name, values in sticky.items():
        together = values | set(fields[name])
        if len(together) == 1:
            continue
        if name in ("PS", "IPS"):
            # A mixture that is reserved behaves as one that is not (the register's page).
            together |= {value for value in _mixtures(together) if value < _RESERVED_SIZE}
        elif name != "MAIR":
            together = _mixtures(together)
        newest = fields[name][-1]
        found[name] = (*sorted(together - {newest}), newest)
    return found


def _mixtures(values: frozenset[int]) -> frozenset[int]:
    """All words each of whose bits is that of one of *values*."""
    common, differ = next(iter(values)), 0
    for value in values:
        differ |= value ^ common
    mixed = {common & ~differ}
    bit = 1
    while bit <= differ:
        if differ & bit:
            mixed |= {value | bit for value in mixed}
        bit <<= 1
    return frozenset(mixed)


def stuck(row: RegimeRow, name: str, values: tuple[int, ...]) -> frozenset[int]:
    """The values of a field that a TLB may hold (the register pages, "permitted to be cached")."""
    if (name, None) in row.unstuck:
        return frozenset()
    return frozenset(value for value in values if (name, value) not in row.unstuck)
