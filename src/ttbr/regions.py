"""What should be mapped: an interval map of region -> attributes.

`RegionMap` keeps regions in the order of their virtual addresses and refuses overlap. What the
attributes are is not its business: any hashable value. `parse_regions` and `format_regions` are the
text form::

    page = 0x1000

    [[region]]
    name = "kernel text"
    va = 0xffff_8000_0800_0000
    pa = 0x80_0020_0000
    size = 0x40_0000
    memory = "normal"
    access = "rx"

All keys but ``name``, ``va``, ``pa`` and ``size`` belong to the attributes, and the caller says how
they become a value and back.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from ttbr.arch.geometry import PA, VA
from ttbr.errors import InvalidError, UnreadableError
from ttbr.tomltext import parse_toml, quoted

__all__ = ["Region", "RegionMap", "format_regions", "parse_regions"]

A = TypeVar("A", bound=Hashable)

ADDRESS_LIMIT = 1 << 64
DEFAULT_PAGE = 1 << 12


@dataclass(frozen=True, slots=True)
class Region(Generic[A]):
    """*size* bytes at *va* that map to *pa* on, all with *attributes*."""

    va: VA
    pa: PA
    size: int
    attributes: A
    name: str = ""

    @property
    def last(self) -> VA:
        """The virtual address of the last byte."""
        return VA(self.va + self.size - 1)

    def clip(self, first: int, last: int) -> "Region[A]":
        """The part of the region in *first* to *last*, both included; there must be one."""
        start, end = max(self.va, first), min(self.last, last)
        if start > end:
            raise InvalidError(f"{self}: nothing of it is in {first:#x}-{last:#x}")
        moved = PA(self.pa + start - self.va)
        return Region(VA(start), moved, end - start + 1, self.attributes, self.name)

    def continues(self, low: "Region[A]") -> bool:
        """Whether this region goes on where *low* ends, in VA, PA and attributes."""
        return (
            low.va + low.size == self.va
            and low.pa + low.size == self.pa
            and low.attributes == self.attributes
        )

    def __str__(self) -> str:
        span = f"{self.va:#x}-{self.last:#x}"
        return f"{self.name} {span}" if self.name else span


class RegionMap(Generic[A]):
    """Regions without overlap, in the order of their virtual addresses.

    Every va, pa and size is a multiple of *page_size*. Many regions are best given at once: then
    they are sorted and checked once. `InvalidError` names the region, or both that overlap.
    """

    __slots__ = ("_regions", "_starts", "page_size")

    def __init__(self, regions: Iterable[Region[A]] = (), page_size: int = DEFAULT_PAGE) -> None:
        if page_size <= 0 or page_size & (page_size - 1):
            raise InvalidError(f"page size {page_size:#x} is not a power of two")
        self.page_size = page_size
        self._regions = sorted(regions, key=_by_va)
        for region in self._regions:
            self._check(region)
        for low, high in pairwise(self._regions):
            if low.va + low.size > high.va:
                raise InvalidError(f"region {low} overlaps region {high}")
        self._starts = [region.va for region in self._regions]

    def add(self, region: Region[A]) -> None:
        """Put *region* into the map; `InvalidError` when it overlaps one that is there."""
        self._check(region)
        at = bisect_right(self._starts, region.va)
        for other in self._regions[max(at - 1, 0) : at + 1]:
            if other.va <= region.last and region.va <= other.last:
                raise InvalidError(f"region {region} overlaps region {other}")
        self._starts.insert(at, region.va)
        self._regions.insert(at, region)

    def lookup(self, va: int) -> Region[A] | None:
        """The region that holds *va*, or None."""
        at = bisect_right(self._starts, va)
        if at and va <= self._regions[at - 1].last:
            return self._regions[at - 1]
        return None

    def overlapping(self, first: int, last: int) -> list[Region[A]]:
        """The regions that have a byte in *first* to *last*, both included, whole and in order."""
        low = bisect_right(self._starts, first)
        if low and first <= self._regions[low - 1].last:
            low -= 1
        return self._regions[low : bisect_right(self._starts, last)]

    def gaps(self, first: int, last: int) -> Iterator[tuple[VA, int]]:
        """The unmapped (start, size) stretches of *first* to *last*, both included, in order."""
        at = first
        for region in self.overlapping(first, last):
            if at < region.va:
                yield VA(at), region.va - at
            at = region.last + 1
        if at <= last:
            yield VA(at), last - at + 1

    def intersections(self, other: "RegionMap[A]") -> Iterator[tuple[Region[A], Region[A]]]:
        """Where both maps map: this map's part and *other*'s, of the same va and size, in order."""
        mine, theirs = 0, 0
        while mine < len(self._regions) and theirs < len(other._regions):
            one, two = self._regions[mine], other._regions[theirs]
            first, last = max(one.va, two.va), min(one.last, two.last)
            if first <= last:
                yield one.clip(first, last), two.clip(first, last)
            if one.last <= two.last:
                mine += 1
            if two.last <= one.last:
                theirs += 1

    def merged(self) -> "RegionMap[A]":
        """The same mappings in the fewest regions; the name is kept where all parts agree."""
        merged: list[Region[A]] = []
        for region in self._regions:
            if merged and region.continues(merged[-1]):
                low = merged[-1]
                name = low.name if low.name == region.name else ""
                merged[-1] = Region(low.va, low.pa, low.size + region.size, low.attributes, name)
            else:
                merged.append(region)
        return RegionMap(merged, self.page_size)

    def __iter__(self) -> Iterator[Region[A]]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RegionMap):
            return NotImplemented
        return self.page_size == other.page_size and self._regions == other._regions

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RegionMap({self._regions!r}, page_size={self.page_size:#x})"

    def _check(self, region: Region[A]) -> None:
        va, pa, size = region.va, region.pa, region.size
        mask = self.page_size - 1
        legal = not (va | pa | size) & mask and va >= 0 and pa >= 0 and size > 0
        if not legal or va + size > ADDRESS_LIMIT or pa + size > ADDRESS_LIMIT:
            raise InvalidError(f"region {region.name or 'without a name'}: {_why(region, mask)}")


def _why(region: Region[A], mask: int) -> str:
    """What is wrong with a *region* that a map with pages of *mask* + 1 bytes refuses."""
    for field, value in (("va", region.va), ("pa", region.pa), ("size", region.size)):
        if value < 0:
            return f"{field} {value:#x} is negative"
        if value & mask:
            return f"{field} {value:#x} is not a multiple of the page, {mask + 1:#x}"
    if not region.size:
        return f"size 0 at va {region.va:#x}"
    return f"va {region.va:#x} or pa {region.pa:#x}, size {region.size:#x}: ends above 2^64"


def _by_va(region: Region[A]) -> int:
    return region.va


NUMBERS = ("va", "pa", "size")
# Some 50,000 regions.
MAX_TEXT = 8 << 20


def parse_regions(
    text: str, attributes: Callable[[Mapping[str, object]], A], source: str = "regions"
) -> RegionMap[A]:
    """The map in the TOML *text*; *source* is the file's name for the errors.

    *attributes* makes the attributes of a region from its remaining keys; what it raises as
    `InvalidError` is passed on with the region's name. ``page`` is the page size in bytes, 4096
    when not given. `UnreadableError` for text that is not of this form, `InvalidError` as
    `RegionMap`.
    """
    table = parse_toml(text, source, MAX_TEXT)
    unknown = sorted(set(table) - {"page", "region"})
    if unknown:
        raise UnreadableError(f"{source}: {unknown[0]!r} is neither page nor region")
    rows = table.get("region", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnreadableError(f"{source}: regions must be written as [[region]]")
    page = _number(table.get("page", DEFAULT_PAGE), f"{source}: page")
    regions = [_region(row, attributes, f"{source}: region {n}") for n, row in enumerate(rows, 1)]
    try:
        return RegionMap(regions, page)
    except InvalidError as error:
        raise InvalidError(f"{source}: {error}") from None


def format_regions(
    regions: RegionMap[A], describe: Callable[[A], Mapping[str, str | int | bool]]
) -> str:
    """*regions* as the TOML text that `parse_regions` takes; *describe* gives the other keys."""
    lines = [f"page = {regions.page_size:#x}"]
    for region in regions:
        lines += ["", "[[region]]", f"name = {quoted(region.name)}"]
        lines += [f"{field} = {getattr(region, field):#x}" for field in NUMBERS]
        lines += [f"{key} = {quoted(value)}" for key, value in describe(region.attributes).items()]
    return "\n".join(lines) + "\n"


def _region(
    row: Mapping[str, object], attributes: Callable[[Mapping[str, object]], A], where: str
) -> Region[A]:
    name = row.get("name", "")
    if not isinstance(name, str) or not name.isprintable():
        raise UnreadableError(f"{where}: name must be one printable line")
    where = f"{where} {name!r}" if name else where
    va, pa, size = (_number(row.get(field), f"{where}: {field}") for field in NUMBERS)
    rest = {key: value for key, value in row.items() if key not in (*NUMBERS, "name")}
    try:
        return Region(VA(va), PA(pa), size, attributes(rest), name)
    except InvalidError as error:
        raise InvalidError(f"{where}: {error}") from None


def _number(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnreadableError(f"{where} must be a whole number")
    return value
