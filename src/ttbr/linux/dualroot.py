"""One root that two values of T0SZ walk alike: the level-skip tables, or why there are none.

With the smaller T0SZ the walk starts some levels higher, at the same root R: for a low address the
skipped levels have index 0. So what entry 0 refers to decides, and the forms below are the ways to
make both walks of a window end at the same memory. ``R`` is the root, ``T`` the table that its
entry 0 refers to, levels are those of the walk that starts lower (the narrow one).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ttbr.arch.geometry import LAST_LEVEL, Granule, size_text
from ttbr.arch.regime import EL2, WalkParams
from ttbr.build import Arena, Attributes, RawTables, Tables, build, table_params
from ttbr.errors import UnsupportedError
from ttbr.record import replace
from ttbr.regions import Region, RegionMap
from ttbr.walk import Run, Unreadable, runs

__all__ = ["LITERAL", "DualRoot", "Exposure", "Form", "dual_root", "exposures", "forms_for"]

LITERAL = (
    "one descriptor cannot be a block in the walk that starts higher and a page in the other: "
    "a block is 0b01, a page 0b11, and 0b01 at level 3 is reserved"
)
"""Why level-skip cannot work as it was first worded."""


class Form(Enum):
    """How both walks are made to agree in a window."""

    SAME_LEVEL = "both walks start at the same level; the wider root has more entries"
    ROOT_SELF = "R[0] refers to R"
    CHILD_SELF = "R[0] refers to T and T[0] to T"
    LINEAR_BLOCK = "T[0] is a block, of two sizes, and the window linear from address 0"
    LAST_BLOCK = "entry 0 of the first level 3 table is a block that the higher walk reads"
    AS_WORDED = "R[0] refers to a level 2 table, which the higher walk takes for a level 1 table"


@dataclass(frozen=True, slots=True)
class DualRoot:
    """Tables under both values of T0SZ.

    `narrow` and `wide` say how to walk them, from one root. `same_leaf` is whether both walks of
    the window end at the same descriptor; where not, the leaf's size changes with T0SZ, which for a
    live address is a TLB conflict unless the CPU tolerates it (FEAT_BBM level 2, R_WHZWS).
    """

    form: Form
    narrow: WalkParams
    wide: WalkParams
    tables: Tables
    window: Region[Attributes]
    runtime: tuple[Region[Attributes], ...]
    idmap: tuple[Region[Attributes], ...]

    @property
    def same_leaf(self) -> bool:
        return self.form not in (Form.LINEAR_BLOCK, Form.LAST_BLOCK, Form.AS_WORDED)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one of the walks reaches besides what was asked for.

    `what` is ``junk walk`` (memory that is no table is read as one), ``junk mapping`` (a leaf that
    nobody asked for) or ``access flag`` (a table seen as a page, AF=0: it faults while HA is 0).
    """

    t0sz: int
    va: int
    size: int
    what: str
    output: int


def _params(g: Granule, t0sz_a: int, t0sz_b: int) -> tuple[WalkParams, WalkParams]:
    """(narrow, wide); the two share one descriptor format."""
    bits = sorted((64 - t0sz_a, 64 - t0sz_b))
    ds, lpa = bits[1] > 48 and g.shift != 16, bits[1] > 48 and g.shift == 16
    narrow, wide = (table_params(EL2, g, b, ds=ds, lpa=lpa) for b in bits)
    return narrow, wide


def forms_for(narrow: WalkParams, wide: WalkParams, window: Region[Attributes]) -> tuple[Form, ...]:
    """The forms that may serve *window*, the best first; `UnsupportedError` if none ever can.

    Where entry 0 is a block, granule and alignment have a say as well: `dual_root` asks them.
    """
    g, start = narrow.granule, narrow.start_level
    end = window.va + window.size
    if end > 1 << narrow.input_bits:
        raise UnsupportedError(
            f"{window}: T0SZ {64 - narrow.input_bits} translates {narrow.input_bits} bits "
            f"only, so the window has no translation under it"
        )
    if wide.start_level == start:
        return (Form.SAME_LEVEL,)
    reach = g.entry_size(start)
    if window.va >= reach:
        return (Form.ROOT_SELF,)
    if end > reach:
        raise UnsupportedError(
            f"window {window} lies on both sides of {reach:#x}, the reach of root entry 0: no one "
            f"form serves both"
        )
    if start == LAST_LEVEL:
        raise UnsupportedError(f"{window}: the narrow root has pages, no tables below it")
    forms = [Form.LINEAR_BLOCK]
    if window.va >= g.size and end <= g.entry_size(LAST_LEVEL - 1):
        forms.insert(0, Form.LAST_BLOCK)
    if window.va >= g.entry_size(start + 1):
        forms.insert(0, Form.CHILD_SELF)
    return tuple(forms)


def _block_level(
    narrow: WalkParams, wide: WalkParams, form: Form, window: Region[Attributes]
) -> int:
    """The level at which the higher walk reads the block; refuses where it may not be one.

    0 for the forms without a block.
    """
    if form in (Form.ROOT_SELF, Form.CHILD_SELF, Form.AS_WORDED):
        return 0
    g, skipped = narrow.granule, narrow.start_level - wide.start_level
    last = form is Form.LAST_BLOCK
    low = LAST_LEVEL if last else narrow.start_level + 1
    high = low - skipped
    if not g.may_be_block(high, narrow.form.wide):
        raise UnsupportedError(
            f"{window}: the {g.name} granule has no block at level {high}, where T0SZ "
            f"{64 - wide.input_bits} reads the entry"
        )
    if not last and (low == LAST_LEVEL or not g.may_be_block(low, narrow.form.wide)):
        raise UnsupportedError(
            f"{window}: address 0 is walked through entry 0 of every table, whose last "
            f"one would be a page under one T0SZ and a table under the other"
        )
    base, size = window.pa - window.va, g.entry_size(high)
    if base < 0 or base % size:
        raise UnsupportedError(
            f"{window}: its block of {size_text(size)} would start at {base:#x}, "
            f"which is not aligned"
        )
    if not last and (window.va or window.size < g.entry_size(low)):
        raise UnsupportedError(
            f"{window}: a window with address 0 must be linear from there for "
            f"{size_text(g.entry_size(low))} at least"
        )
    return high


def dual_root(
    g: Granule,
    t0sz_a: int,
    t0sz_b: int,
    window: Region[Attributes],
    *,
    arena: Arena,
    runtime: Iterable[Region[Attributes]] = (),
    idmap: Iterable[Region[Attributes]] = (),
    form: Form | None = None,
) -> DualRoot:
    """Tables in *arena* that translate *window* alike under both values of T0SZ.

    *runtime* are further mappings for the larger T0SZ, *idmap* those for the smaller one. *form* is
    the best of `forms_for` when not given. `UnsupportedError` says why no such tables exist;
    `InvalidError` is raised for a T0SZ that the granule does not have.
    """
    narrow, wide = _params(g, t0sz_a, t0sz_b)
    runtime, idmap = tuple(runtime), tuple(idmap)
    forms = forms_for(narrow, wide, window)
    found = forms[0] if form is None else form
    if found not in forms and found is not Form.AS_WORDED:
        raise UnsupportedError(f'{window}: not "{found.value}", but "{forms[0].value}" serves it')
    if found is Form.SAME_LEVEL:
        tables = build([window, *runtime, *idmap], wide, arena=arena)
        narrow = replace(narrow, root=tables.root)
        return DualRoot(found, narrow, tables.params, tables, window, runtime, idmap)
    block_level = _block_level(narrow, wide, found, window)
    limit = g.size if found is Form.LAST_BLOCK else g.entry_size(min(narrow.start_level + 1, 3))
    limit = min(limit, window.attributes.largest or limit)
    attributes = window.attributes.replace(largest=limit, contiguous=False)
    limited = Region(window.va, window.pa, window.size, attributes, window.name)
    tables = build([limited, *runtime], narrow, arena=arena)
    raw = RawTables(narrow, arena, tables.mair)
    _join(raw, tables.root, found, narrow)
    if found is Form.LAST_BLOCK:
        last = _first_table(raw, tables.root, LAST_LEVEL - narrow.start_level)
        attributes = window.attributes.replace(largest=None)
        raw.set_leaf(last, 0, block_level, window.pa - window.va, attributes)
    if idmap:
        other = build(idmap, wide, arena=arena, mair=tables.mair)
        _graft(raw, tables.root, other.root, narrow, wide)
        arena.free(other.root)
    wide = replace(wide, root=tables.root, mair=tables.mair.value)
    return DualRoot(found, tables.params, wide, tables, window, runtime, idmap)


def _first_table(raw: RawTables, table: int, depth: int) -> int:
    """The table that entry 0 refers to, *depth* times over."""
    for _ in range(depth):
        table = raw.get(table, 0) & raw.params.form.low_mask(raw.params.granule.shift)
    return table


def _join(raw: RawTables, root: int, form: Form, narrow: WalkParams) -> None:
    """Write the entry that refers to its own table."""
    if form is Form.ROOT_SELF:
        table = root
    elif form is Form.CHILD_SELF:
        table = _first_table(raw, root, 1)
    else:
        return
    if raw.get(table, 0):
        level = narrow.start_level + (form is Form.CHILD_SELF)
        raise UnsupportedError(
            f"entry 0 at level {level} is needed for itself, but a region below "
            f"{narrow.granule.entry_size(level):#x} uses it"
        )
    raw.set_table(table, 0, table)


def _graft(raw: RawTables, root: int, other: int, narrow: WalkParams, wide: WalkParams) -> None:
    """Put the entries of the wide tree *other* into *root*, which stands for its upper tables."""
    g = narrow.granule
    form_self = raw.get(root, 0) == raw.params.form.place(root) | 0b11
    for level in range(wide.start_level, narrow.start_level + 1):
        for index in range(1, g.entries):
            entry = raw.get(other, index) if 8 * index < _size(wide, level) else 0
            if entry and raw.get(root, index):
                raise UnsupportedError(
                    f"root entry {index} is needed for the ID map and for the run-time addresses "
                    f"from {index * g.entry_size(narrow.start_level):#x}"
                )
            if entry:
                raw.set(root, index, entry)
        below = raw.get(other, 0)
        if not below:
            return
        if not form_self or level == narrow.start_level:
            break
        other = below & raw.params.form.low_mask(g.shift)
    raise UnsupportedError("root entry 0 is needed for the ID map and to skip levels")


def _size(p: WalkParams, level: int) -> int:
    return p.root_size if level == p.start_level else p.granule.size


def exposures(dual: DualRoot) -> tuple[Exposure, ...]:
    """What either walk reaches besides the window, the run-time regions and the ID map."""
    memory = dual.tables.memory()
    found: list[Exposure] = []
    mapped = (dual.window, *dual.runtime)
    for p, regions in ((dual.narrow, mapped), (dual.wide, (*mapped, *dual.idmap))):
        merged = RegionMap(regions, p.granule.size).merged()
        found += [
            _exposure(p, item)
            for item in runs(memory, p)
            if isinstance(item, Run | Unreadable) and not _wanted(item, merged)
        ]
    return tuple(found)


def _wanted(item: Run | Unreadable, regions: RegionMap[Attributes]) -> bool:
    region = regions.lookup(item.va)
    return (
        isinstance(item, Run)
        and region is not None
        and item.end <= region.va + region.size
        and item.output - item.va == region.pa - region.va
    )


def _exposure(p: WalkParams, item: Run | Unreadable) -> Exposure:
    t0sz = 64 - p.input_bits
    if isinstance(item, Unreadable):
        return Exposure(t0sz, item.va, item.size, "junk walk", item.table)
    what = "junk mapping" if item.leaf.descriptor >> 10 & 1 else "access flag"
    return Exposure(t0sz, item.va, item.size, what, item.output)
