"""Regions made ready for the planner: offsets in the range of one table, alike neighbours merged.

A `Span` is the largest stretch that continues in input address, output address and attributes, so
that a block is found wherever one is legal, however the regions were cut.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ttbr.arch.geometry import size_text
from ttbr.arch.regime import WalkParams
from ttbr.build.attributes import Attributes, encode
from ttbr.build.mair import Mair
from ttbr.errors import InvalidError
from ttbr.regions import Region, RegionMap

__all__ = ["LeafKind", "Span", "Style", "leaf_kinds", "spans_of"]

_KIND = 0b11


@dataclass(frozen=True, slots=True)
class LeafKind:
    """A way to map: leaves at *level*, one by one or in whole contiguous groups.

    `unit` is log2 of the bytes that must be aligned and alike: a leaf, or a group of leaves.
    """

    level: int
    unit: int
    contiguous: bool


class Style(NamedTuple):
    """What leaves say: descriptor bits without address and type, largest leaf, contiguous hint.

    `largest` is log2 of the size of the largest leaf allowed.
    """

    bits: int
    largest: int
    contiguous: bool

    def allows(self, kind: LeafKind, level_shift: int) -> bool:
        return level_shift <= self.largest and (self.contiguous or not kind.contiguous)


class Span(NamedTuple):
    """*first* to *end* (not included), as offsets from the lowest address of the range."""

    first: int
    end: int
    pa: int
    style: int


def leaf_kinds(p: WalkParams) -> tuple[LeafKind, ...]:
    """The leaf kinds of the tables of *p*, the largest first."""
    g = p.granule
    kinds = []
    for row in p.levels:
        if row.may_be_block:
            group = g.contiguous.get(row.level)
            if group:
                kinds.append(LeafKind(row.level, row.shift + group.bit_length() - 1, True))
            kinds.append(LeafKind(row.level, row.shift, False))
    return tuple(kinds)


def style_of(attributes: Attributes, p: WalkParams, mair: Mair) -> Style:
    """The style of *attributes* in the tables of *p*; `InvalidError` as `encode`."""
    largest = 1 << 63 if attributes.largest is None else attributes.largest
    if largest < p.granule.size:
        raise InvalidError(
            f"largest leaf {size_text(largest)}: a page of {p.name} has {p.granule.name}"
        )
    bits = encode(attributes, p, mair) & ~_KIND
    return Style(bits, largest.bit_length() - 1, attributes.contiguous)


def spans_of(
    regions: Iterable[Region[Attributes]], p: WalkParams, mair: Mair
) -> tuple[list[Span], list[Style]]:
    """The spans of *regions* in order, and the styles that they index.

    A span does not cross the output address at which a descriptor's high address bits change, so
    that its descriptors are one arithmetic progression. Raises `InvalidError` with the region's
    name for one that is not page-aligned, out of range, or not sayable in the regime.
    """
    if not isinstance(regions, RegionMap):
        regions = RegionMap(regions)
    known: dict[int, int] = {}
    styles: dict[Style, int] = {}
    spans: list[Span] = []
    base, mask = p.base, p.granule.size - 1
    limit, top, carry = 1 << p.input_bits, 1 << p.output_bits, p.form.low_top + 1
    first = end = pa = 0
    style = -1
    for region in regions:
        like = known.get(id(region.attributes))
        if like is None:
            like = _index(region, p, mair, styles)
            known[id(region.attributes)] = like
        offset, output, size = region.va - base, region.pa, region.size
        if (
            (offset | output | size) & mask
            or not 0 <= offset <= limit - size
            or output > top - size
        ):
            raise InvalidError(f"region {region}: {_why(region, p)}")
        if offset == end and like == style and output - offset == pa - first:
            end += size
            continue
        if style >= 0:
            _cut(spans, Span(first, end, pa, style), carry)
        first, end, pa, style = offset, offset + size, output, like
    if style >= 0:
        _cut(spans, Span(first, end, pa, style), carry)
    return spans, list(styles)


def _index(region: Region[Attributes], p: WalkParams, mair: Mair, styles: dict[Style, int]) -> int:
    try:
        style = style_of(region.attributes, p, mair)
    except InvalidError as error:
        raise InvalidError(f"region {region}: {error}") from None
    return styles.setdefault(style, len(styles))


def _cut(spans: list[Span], span: Span, carry: int) -> None:
    """Append *span*, cut where its output address passes a multiple of 2^*carry*."""
    while span.pa >> carry != span.pa + span.end - span.first - 1 >> carry:
        head = (1 << carry) - (span.pa & (1 << carry) - 1)
        middle = span.first + head
        spans.append(span._replace(end=middle))
        span = span._replace(first=middle, pa=span.pa + head)
    spans.append(span)


def _why(region: Region[Attributes], p: WalkParams) -> str:
    """What is wrong with a region that `spans_of` refuses."""
    for field in ("va", "pa", "size"):
        value = getattr(region, field)
        if value & (p.granule.size - 1):
            return f"{field} {value:#x} is not a multiple of the {p.granule.name} page"
    if not p.base <= region.va <= p.base + (1 << p.input_bits) - region.size:
        return f"outside the {p.input_bits}-bit range of {p.name}, which starts at {p.base:#x}"
    return f"pa {region.pa:#x}, size {region.size:#x}: beyond {p.output_bits} output bits"
