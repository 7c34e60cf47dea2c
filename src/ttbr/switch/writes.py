"""Stored-to descriptors: which of their values a walk may see.

A walker is a separate observer (R_TGRMW): it may see any value from the newest that a DSB has
completed on (R_SPVBD). A store whose cacheability is not that of the walks gets there only after
cache maintenance of its line (R_XGXKR, I_TXCPH)::

    WRITTEN --DC to the Point of Coherency--> CLEAN --DSB--> COMPLETE

Which maintenance depends on the direction. A cacheable store must be cleaned out of the cache for
walks that go past it; for one that went past the cache, the line there may be an old copy and must
be invalidated for cacheable walks. What the walks are may change on the way (SCTLR_ELx.C, TCR_ELx),
so a write is followed for both. An invalidation alone drops what is only in the cache, and a
line that is only in the cache may be written back over a store that went past it: such a store may
be lost, and no walk need ever see it. Which value is then left is settled once; here each walk may
read another, which errs on the side of UNSAFE.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from itertools import groupby

from ttbr.errors import UnsupportedError
from ttbr.switch.descriptors import TableMemory

__all__ = ["CLEAN", "INVALIDATE", "MAINTENANCE", "Writes"]

CLEAN, INVALIDATE = "clean", "invalidate"

MAINTENANCE: dict[str, frozenset[str]] = {
    "IVAC": frozenset({INVALIDATE}),
    "CIVAC": frozenset({CLEAN, INVALIDATE}),
    **dict.fromkeys(("CVAC", "CVAP", "CVADP"), frozenset({CLEAN})),
}
"""What DC by address does up to the Point of Coherency. CVAU is not enough: walks are coherent
there only."""

_WHOLE = (1 << 64) - 1
_MOST_STATES = 256
_NEEDED = {False: CLEAN, True: INVALIDATE}
"""Maintenance of a store that went the other way, by the cacheability of the walks."""
_READY: dict[frozenset[str], frozenset[bool]] = {
    frozenset(needs): frozenset(kind for kind, op in _NEEDED.items() if op not in needs)
    for needs in ((), (CLEAN,), (INVALIDATE,), (CLEAN, INVALIDATE))
}


@dataclass(frozen=True, slots=True)
class _Write:
    """One value of a location.

    `needs` is the maintenance without which walks of one cacheability do not see it, `complete` the
    cacheabilities of walks that a DSB has made sure of. `past`: it may have gone past the cache,
    and no barrier since orders maintenance after it (D7.5.9). `dirty`: it may be in the cache only.
    `lost`: it may have been overwritten. `mask` are the bits that it wrote; between two barriers
    (`epoch`) stores to other bytes of the location become visible in any order.
    """

    value: int
    needs: frozenset[str] = frozenset()
    past: bool = False
    dirty: bool = False
    lost: bool = False
    complete: frozenset[bool] = frozenset()
    mask: int = _WHOLE
    epoch: int = 0

    @property
    def clean(self) -> frozenset[bool]:
        """The cacheabilities of walks that it needs only a DSB for."""
        return frozenset() if self.lost else _READY[self.needs]

    def maintained(self, ops: frozenset[str]) -> "_Write":
        """After maintenance of its line."""
        lost = self.lost or (self.dirty and CLEAN not in ops)
        done = ops - {INVALIDATE} if self.past else ops
        return replace(
            self,
            needs=self.needs - done,
            dirty=self.dirty and CLEAN not in ops,
            lost=lost,
            complete=frozenset() if lost else self.complete,
        )


class Writes:
    """The writes of each stored-to location, oldest first; *line* is the size of a cache line."""

    def __init__(self, tables: TableMemory, line: int) -> None:
        self._tables, self._line = tables, line
        self._writes: dict[int, tuple[_Write, ...]] = {}
        self._epoch = 0
        self._changed: set[int] = set()  # locations, since `changes` was asked
        self._unordered: set[int] = set()  # locations that a barrier may change
        self._incomplete: set[int] = set()  # and a DSB
        self._views: dict[tuple[frozenset[bool], bool], Mapping[int, tuple[int, ...]]] = {}
        self._outdated: dict[tuple[frozenset[bool], bool], set[int]] = {}

    @property
    def locations(self) -> frozenset[int]:
        return frozenset(self._writes)

    def changes(self) -> frozenset[int]:
        """The locations of which walks may see something else than when this was last asked."""
        found = frozenset(self._changed)
        self._changed.clear()
        return found

    def visible(self, walks: Set[bool]) -> Mapping[int, tuple[int, ...]]:
        """The values of each location that a walk may see, oldest first; *walks* is what the
        cacheability of walks may be."""
        return self._view(frozenset(walks), False)

    def ordered(self, walks: Set[bool]) -> Mapping[int, tuple[int, ...]]:
        """The values that a walk may see for an access that FEAT_ETS2 orders after the stores."""
        return self._view(frozenset(walks), True)

    def _view(self, walks: frozenset[bool], ordered: bool) -> Mapping[int, tuple[int, ...]]:
        key = walks, ordered
        outdated = self._outdated.setdefault(key, set(self._writes))
        if outdated or key not in self._views:
            view = dict(self._views.get(key, {}))
            for location in outdated:
                view[location] = _shown(self._writes[location], walks, ordered)
            self._views[key] = view
            outdated.clear()
        return self._views[key]

    def store(self, pa: int, size: int, value: int, cached: Set[bool]) -> list[tuple[int, int]]:
        """Store *size* bytes; *cached* is what the cacheability of the store may be. The
        descriptors as (location, new value)."""
        needs = frozenset(_NEEDED[not kind] for kind in cached)
        stored = []
        for location in range(pa & ~7, pa + size, 8):
            if not self._tables.is_table(location):
                continue
            every = frozenset(_NEEDED)
            first = _Write(self._tables[location] or 0, complete=every)
            old = self._writes.get(location, (first,))
            word = _merged(old[-1].value, location, pa, size, value)
            mask = _merged(0, location, pa, size, (1 << 8 * size) - 1)
            lost = False in cached and self._dirty(location)
            new = _Write(
                word, needs, False in cached, True in cached, lost, mask=mask, epoch=self._epoch
            )
            self._set(location, (*old, new))
            self._unordered.add(location)
            stored.append((location, word))
        return stored

    def _dirty(self, location: int) -> bool:
        """Whether the line of *location* may hold a store that is in the cache only."""
        return any(write.dirty for at in self._beside(location) for write in self._writes[at])

    def _beside(self, pa: int) -> list[int]:
        """The stored-to locations in the line of *pa*."""
        line = pa & -self._line
        return [at for at in range(line, line + self._line, 8) if at in self._writes]

    def maintain(self, pa: int, ops: frozenset[str]) -> bool:
        """Do *ops* to the line of *pa*; whether that changed what walks may see."""
        return self._change(lambda w: w.maintained(ops), self._beside(pa))

    def discard(self) -> bool:
        """Invalidate by set and way, which may be any line: what is in the cache only is lost."""
        drop = frozenset({INVALIDATE})
        return self._change(lambda w: w.maintained(drop) if w.dirty else w, list(self._writes))

    def order(self) -> None:
        """A barrier: cache maintenance that follows comes after the stores."""
        self._change(lambda w: replace(w, past=False) if w.past else w, list(self._unordered))
        self._unordered.clear()

    def order_stores(self) -> None:
        """A barrier: stores that follow become visible after those before it."""
        self._epoch += 1

    def complete(self) -> bool:
        """What a DSB does; whether that changed what walks see."""
        changed = self._change(
            lambda w: w if w.complete == w.clean else replace(w, complete=w.clean),
            list(self._incomplete),
        )
        self._incomplete.clear()
        return changed

    def _change(self, change: Callable[[_Write], _Write], chosen: Iterable[int]) -> bool:
        changed = False
        for location in chosen:
            writes = self._writes[location]
            # What a location held before its first store counts as it is.
            new = (writes[0], *map(change, writes[1:]))
            if new != writes:
                self._set(location, new)
                changed = True
        return changed

    def _set(self, location: int, writes: tuple[_Write, ...]) -> None:
        self._writes[location] = writes
        self._changed.add(location)
        self._incomplete.add(location)
        for outdated in self._outdated.values():
            outdated.add(location)


def _merged(old: int, location: int, pa: int, size: int, value: int) -> int:
    """The word at *location* after *size* bytes of *value* (little endian) went to *pa*."""
    data = bytearray(old.to_bytes(8, "little"))
    stored = value.to_bytes(max(size, (value.bit_length() + 7) // 8), "little")
    for at in range(max(pa, location), min(pa + size, location + 8)):
        data[at - location] = stored[at - pa]
    return int.from_bytes(data, "little")


def _shown(writes: tuple[_Write, ...], walks: Set[bool], ordered: bool) -> tuple[int, ...]:
    """The values from the newest write on that has reached each kind of walk, oldest first."""
    newest = last = len(writes) - 1
    for kind in walks:
        at = last
        while kind not in (writes[at].clean if ordered else writes[at].complete):
            at -= 1
        newest = min(newest, at)
    tail = writes[newest:]
    if all(write.mask == _WHOLE for write in tail[1:]):
        return tuple(dict.fromkeys(write.value for write in tail))
    return _in_any_order(tail)


def _in_any_order(tail: tuple[_Write, ...]) -> tuple[int, ...]:
    """The values while parts of a location are stored one by one; the newest is the last."""
    found, sure = [tail[0].value], tail[0].value
    for _, group in groupby(tail[1:], key=lambda write: write.epoch):
        states = {sure: None}
        for write in group:
            states |= {value & ~write.mask | write.value & write.mask: None for value in states}
            sure = sure & ~write.mask | write.value & write.mask
            if len(states) > _MOST_STATES:
                raise UnsupportedError("stores to parts of a descriptor: too many orders")
        found += states
    newest = tail[-1].value
    return (*(value for value in dict.fromkeys(found) if value != newest), newest)
