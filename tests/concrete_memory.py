"""Descriptors as a walker may see them: any value since the newest one that a DSB has published."""

from collections.abc import Mapping
from random import Random

__all__ = ["WalkerMemory"]

_WRITTEN, _SENT, _SEEN = 0, 1, 2
_LINE = 64


class _Value:
    """A stored value, and how far it is on its way to non-cacheable and to cacheable walks.

    A store reaches a walker of the other cacheability only after cache maintenance (R_XGXKR).
    `dirty`: it is in the cache only; `past`: it went past the cache, and no barrier has followed.
    """

    __slots__ = ("dirty", "past", "phase", "value")

    def __init__(self, value: int, phase: list[int], cacheable: int | None = None) -> None:
        self.value = value
        self.phase = phase
        self.dirty = cacheable == 1
        self.past = cacheable == 0


class WalkerMemory:
    """The tables and the values that stores have put there."""

    def __init__(self, words: Mapping[int, int], tables: frozenset[int], random: Random) -> None:
        self.words = words
        self.tables = tables
        self.roll = random.random
        self.history: dict[int, list[_Value]] = {}

    def read(self, location: int, cacheable: int, random: Random, old: float) -> int | None:
        """A value that a walk may read at *location*; None when that is not a table."""
        history = self.history.get(location)
        if history is None:
            if location & ~0xFFF not in self.tables:
                return None
            return self.words.get(location, 0)
        values = self._visible(history, cacheable)
        if len(values) == 1 or random.random() >= old:
            return values[-1].value
        return values[random.randrange(len(values) - 1)].value

    def _visible(self, history: list[_Value], cacheable: int) -> list[_Value]:
        first = max(i for i, v in enumerate(history) if v.phase[cacheable] == _SEEN)
        return history[first:]

    def store(self, location: int, value: int, cacheable: int) -> None:
        """A store of 8 bytes by the PE, with a cacheable or non-cacheable memory type."""
        history = self.history.get(location)
        if history is None:
            if location & ~0xFFF not in self.tables:
                return
            first = _Value(self.words.get(location, 0), [_SEEN, _SEEN])
            history = self.history[location] = [first]
        phase = [_WRITTEN, _WRITTEN]
        phase[cacheable] = _SENT
        line = range(location & -_LINE, (location & -_LINE) + _LINE, 8)
        dirty = any(v.dirty for at in line for v in self.history.get(at, ()))
        if not cacheable and dirty and self.roll() < 0.5:
            return  # the line is written back over it
        history.append(_Value(value, phase, cacheable))

    def maintain(self, pa: int, op: str) -> None:
        """DC to the point of coherency of the line of *pa* (D8.2.5)."""
        line = pa & -_LINE
        for location in range(line, line + _LINE, 8):
            history = self.history.get(location, [])
            if op == "IVAC":
                self._drop(history)
            for value in history:
                if value.dirty and op != "IVAC":
                    value.dirty = False
                    value.phase[0] = max(value.phase[0], _SENT)
                # Before a store that is not cacheable it is worth nothing.
                elif op in ("IVAC", "CIVAC") and not (value.past and self.roll() < 0.5):
                    value.phase[1] = max(value.phase[1], _SENT)

    def _drop(self, history: list[_Value]) -> None:
        """An invalidation: what is in the cache only may be lost."""
        if self.roll() < 0.5:
            history[:] = [v for v in history if not v.dirty]

    def order(self) -> None:
        """A barrier between stores and cache maintenance (D7.5.9)."""
        for history in self.history.values():
            for value in history:
                value.past = False

    def barrier(self) -> None:
        """A DSB that waits for stores: what was sent is now what walks see (R_SPVBD)."""
        self.order()
        for history in self.history.values():
            for value in history:
                value.phase = [_SEEN if p == _SENT else p for p in value.phase]
            keep = min(max(i for i, v in enumerate(history) if v.phase[c] == _SEEN) for c in (0, 1))
            del history[:keep]

    def newest(self, location: int, cacheable: int) -> int | None:
        """The PE's own newest value; of later stores that such a walker is not sure to see, any."""
        history = self.history.get(location)
        if history is None:
            return self.words.get(location, 0) if location & ~0xFFF in self.tables else None
        sure = max(i for i, v in enumerate(history) if v.phase[cacheable] != _WRITTEN)
        return history[sure + int(self.roll() * (len(history) - sure))].value
