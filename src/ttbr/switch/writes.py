"""Stored-to descriptors: which of their values a walk may see.

A walker is a separate observer (R_TGRMW): it may see any value from the newest that a DSB has
completed on (R_SPVBD). A store whose cacheability is not that of the walks gets there only after
cache maintenance of its line (R_XGXKR, I_TXCPH)::

    WRITTEN --DC to the Point of Coherency--> CLEAN --DSB--> COMPLETE
"""

from collections.abc import Mapping

from ttbr.switch.descriptors import TableMemory

__all__ = ["CLEAN", "COMPLETE", "WRITTEN", "Writes"]

WRITTEN, CLEAN, COMPLETE = "written", "clean", "complete"


class Writes:
    """The writes of each stored-to location, oldest first, with their phases.

    `visible` are the values that a walk may see, `ordered` those that it may see for an access
    that FEAT_ETS2 orders after the PE's own stores.
    """

    def __init__(self, tables: TableMemory) -> None:
        self._tables = tables
        self._phases: dict[int, tuple[tuple[int, str], ...]] = {}
        self.visible: Mapping[int, tuple[int, ...]] = {}
        self.ordered: Mapping[int, tuple[int, ...]] = {}

    @property
    def locations(self) -> frozenset[int]:
        return frozenset(self._phases)

    def store(self, pa: int, size: int, value: int, agrees: bool) -> list[tuple[int, int]]:
        """Store *size* bytes; *agrees* tells that the walks have the same cacheability. The
        descriptors as (location, new value)."""
        stored = []
        for location in range(pa & ~7, pa + size, 8):
            if not self._tables.is_table(location):
                continue
            old = self._phases.get(location, ((self._tables[location] or 0, COMPLETE),))
            word = _merged(old[-1][0], location, pa, size, value)
            self._phases[location] = (*old, (word, CLEAN if agrees else WRITTEN))
            stored.append((location, word))
        self._show()
        return stored

    def clean(self, low: int, high: int) -> bool:
        """Clean the lines from *low* to *high* (excluded); whether that changed what walks see."""
        return self._advance([at for at in self._phases if low <= at < high], WRITTEN, CLEAN)

    def complete(self) -> bool:
        """What a DSB does; whether that changed what walks see."""
        return self._advance(list(self._phases), CLEAN, COMPLETE)

    def _advance(self, locations: list[int], phase: str, to: str) -> bool:
        moved = False
        for location in locations:
            writes = self._phases[location]
            if any(now == phase for _, now in writes):
                moved = True
                self._phases[location] = tuple(
                    (value, to if now == phase else now) for value, now in writes
                )
        if moved:
            self._show()
        return moved

    def _show(self) -> None:
        phases = self._phases.items()
        self.visible = {at: _visible(writes, (COMPLETE,)) for at, writes in phases}
        self.ordered = {at: _visible(writes, (COMPLETE, CLEAN)) for at, writes in phases}


def _merged(old: int, location: int, pa: int, size: int, value: int) -> int:
    """The word at *location* after *size* bytes of *value* (little endian) went to *pa*."""
    data = bytearray(old.to_bytes(8, "little"))
    stored = value.to_bytes(max(size, (value.bit_length() + 7) // 8), "little")
    for at in range(max(pa, location), min(pa + size, location + 8)):
        data[at - location] = stored[at - pa]
    return int.from_bytes(data, "little")


def _visible(writes: tuple[tuple[int, str], ...], phases: tuple[str, ...]) -> tuple[int, ...]:
    """The values from the newest write in one of *phases* on, oldest first."""
    newest = max(i for i, (_, phase) in enumerate(writes) if phase in phases)
    return tuple(dict.fromkeys(value for value, _ in writes[newest:]))
