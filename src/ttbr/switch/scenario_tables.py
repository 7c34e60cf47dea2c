"""The tables of a scenario: built from named regions, linked and changed by hand, or captured.

::

    [region]
    code = { va = 0x80_8000_1000, size = 0x1000, access = "rx" }       # pa is va unless it is given
    hyp = { va = 0x8000_0000, regime = "EL2" }                         # meant in this regime only

    [table.boot]
    map = ["code"]                       # regions by name
    regime = "EL2"                       # unless it is the document's
    link = { 1 = "hyp" }                 # entry 1 of the root points to the root of another tree,
                                         # or to { table, level, va }: the table read at that level
    set = [{ va = 0, level = 3, pa = 0x5000_0000, block = true }]      # one descriptor, any level

    [descriptor]
    new = { table = "boot", level = 3, pa = 0x5000_0000, access = "rw" }
    down = { table = "boot", level = 2, next = "hyp" }                # a table, named as in link

    [place]
    pte = { table = "boot", va = 0x4020_1000, level = 3 }
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ttbr.arch.descriptors import TABLE, descriptor_type, output_address
from ttbr.arch.geometry import LAST_LEVEL, PA, VA
from ttbr.arch.regime import EL1, EL2, EL20, WalkParams
from ttbr.build import (
    Arena,
    Attributes,
    Mair,
    RawTables,
    Tables,
    attributes_from,
    build,
    encode,
    regime_name,
    registers_of,
    table_params,
)
from ttbr.errors import MemoryFault
from ttbr.memory.segments import Segment, SegmentMemory
from ttbr.regions import Region
from ttbr.switch.document import Section, within

__all__ = [
    "REGIMES",
    "Forest",
    "Regions",
    "captured_segments",
    "make_tables",
    "read_regime",
    "read_regions",
]

Regions = dict[str, Region[Attributes]]

REGIMES = {EL1: 1, EL2: 2, EL20: 2}
"""The regimes that proofs cover, and the exception level of their registers."""

_TREE = ("map", "link", "set", "root", "granule", "input_bits", "output_bits", "upper", "regime")
_FLAGS = ("ds", "lpa", "ha", "hd", "tbi", "hpd")
_DESCRIPTOR = ("table", "level", "pa", "next", "block", "contiguous", "value")


@dataclass(slots=True)
class Forest:
    """All trees of a scenario, by name, and the memory that they are in.

    `extents` are the (address, size) of memory that holds tables. `regime` is where the program
    starts, `regimes` are all that have tables or regions.
    """

    regime: str
    regimes: set[str] = field(default_factory=set)
    trees: dict[str, Tables] = field(default_factory=dict)
    arenas: dict[str, Arena] = field(default_factory=dict)
    captured: list[Segment] = field(default_factory=list)
    mair: Mair = field(default_factory=Mair)

    def memory(self, *more: Segment) -> SegmentMemory:
        """The tables, and *more*, as physical memory."""
        built = [segment for arena in self.arenas.values() for segment in arena.segments]
        return SegmentMemory([*built, *self.captured, *more])

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        return tuple((s.address, s.size) for s in self.memory().segments)

    def tree(self, section: Section, name: str) -> Tables:
        if name not in self.trees:
            raise section.error("table", f"there is no table {name!r}")
        return self.trees[name]

    def symbols(self) -> dict[str, int]:
        """``boot.root``, ``boot.TTBR0_EL2`` and the other registers of each tree."""
        found = {}
        for name, tree in self.trees.items():
            found[f"{name}.root"] = tree.root
            found |= {f"{name}.{register}": v for register, v in tree.registers.items()}
        return found

    def registers(self, names: Iterable[str], section: Section) -> dict[str, int]:
        """The registers of one tree, or of the two halves of a regime, for each regime."""
        params: dict[str, list[WalkParams]] = {}
        for name in names:
            tree = self.tree(section, name)
            params.setdefault(regime_name(tree.params), []).append(tree.params)
        with within(section.where):
            made = [registers_of(*halves) for halves in params.values()]
        return {name: value for found in made for name, value in found.items()}

    def descriptor_address(self, section: Section) -> int:
        """The address of the descriptor that ``{ table, va, level }`` names."""
        section.only("table", "va", "level")
        tree = self.tree(section, section.text("table"))
        level = section.number("level", LAST_LEVEL)
        address, va = tree.root, section.number("va")
        params = tree.params
        if not params.start_level <= level <= LAST_LEVEL:
            raise section.error("level", f"{level} is not a level of this table")
        for row in params.levels[: level - params.start_level + 1]:
            location = address + 8 * (va >> row.shift & row.mask)
            if row.level < level:
                address = self._next(section, location, row.level, params)
        return location

    def table_address(self, section: Section, key: str) -> int:
        """The root of a tree by name, or the table that ``{ table, level, va }`` is read from."""
        if isinstance(section.fields[key], str):
            return self.tree(section, section.text(key)).root
        part = section.section(key)
        page = self.tree(part, part.text("table")).params.granule.size
        return self.descriptor_address(part) & ~(page - 1)

    def _next(self, section: Section, location: int, level: int, p: WalkParams) -> int:
        try:
            word = int.from_bytes(self.memory().read(location, 8), "little")
        except MemoryFault:
            raise section.error("table", f"{location:#x} is not in memory") from None
        if descriptor_type(word, level, p.granule, p.form.wide) != TABLE:
            raise section.error("va", f"the level {level} descriptor {word:#x} is not a table")
        return output_address(word, p.form, p.granule.shift)

    def descriptor(self, section: Section) -> int:
        """The descriptor that a table of the document describes."""
        if "value" in section.fields:
            section.only("value")
            return section.number("value")
        tree = self.tree(section, section.text("table"))
        level = section.number("level", LAST_LEVEL)
        params = tree.params
        if "next" in section.fields:
            section.only("table", "level", "next")
            return params.form.place(self.table_address(section, "next")) | 0b11
        return _leaf(section, params, level, self.mair)


def _leaf(section: Section, params: WalkParams, level: int, mair: Mair) -> int:
    """A page or block; ``block`` forces the encoding 0b01 or 0b11 against the level."""
    pa = section.number("pa")
    if not params.start_level <= level <= LAST_LEVEL:
        raise section.error("level", f"{level} is not a level of this table")
    if pa % params.granule.entry_size(level):
        raise section.error("pa", f"{pa:#x} is not aligned for a descriptor of level {level}")
    with within(section.where):
        keys = {k: v for k, v in section.fields.items() if k not in _DESCRIPTOR}
        word = params.form.place(pa) | encode(attributes_from(keys), params, mair, level)
        block = section.flag("block", level != LAST_LEVEL)
        word = word & ~0b11 | (0b01 if block else 0b11)
        return word | section.flag("contiguous", False) << 52


def read_regions(section: Section) -> Regions:
    """The regions by name."""
    found = {}
    for name in section.fields:
        part = section.section(name)
        va = part.number("va")
        keys = {k: v for k, v in part.fields.items() if k not in ("va", "pa", "size", "regime")}
        with within(part.where):
            attributes = attributes_from(keys)
        pa, size = PA(part.number("pa", va)), part.number("size", 0x1000)
        if va + size > 1 << 64 or size == 0:
            raise part.error("size", f"{size:#x} from {va:#x} is not a range of addresses")
        found[name] = Region(VA(va), pa, size, attributes, name)
    return found


def read_regime(section: Section, default: str | None) -> str:
    """The regime that a section names, or *default*; None: it must name one."""
    found = section.text("regime", default)
    if found not in REGIMES and found != default:
        raise section.error("regime", f"must be one of {', '.join(REGIMES)}")
    return found


def make_tables(
    document: Section, regime: str, regions: Regions, captured: list[Segment]
) -> Forest:
    """Build every ``[table.*]`` of the document, then apply its links and single descriptors."""
    forest = Forest(regime, {regime}, captured=captured)
    tables = document.section("table")
    for name in tables.fields:
        section = tables.section(name)
        section.only(*_TREE, *_FLAGS)
        forest.regimes.add(read_regime(section, regime))
        forest.trees[name] = _build(forest, document, section, regions)
    for name in tables.fields:
        _adjust(forest, tables.section(name), name)
    return forest


def _build(forest: Forest, document: Section, section: Section, regions: Regions) -> Tables:
    granule = section.text("granule", document.text("granule", "4K"))
    given = {key: section.flag(key, False) for key in _FLAGS if key in section.fields}
    output = section.number("output_bits", 48)
    with within(section.where):
        params = table_params(
            read_regime(section, forest.regime),
            granule,
            section.number("input_bits", document.number("input_bits", 48)),
            upper=section.flag("upper", False),
            output_bits=output,
            **given,
        )
        if granule not in forest.arenas:
            forest.arenas[granule] = _arena(document, granule, len(forest.arenas))
        arena = forest.arenas[granule]
        wanted = [_region(section, regions, name) for name in section.names("map")]
        root = section.number("root") if "root" in section.fields else None
        if wanted or root is not None:
            return build(wanted, params, arena=arena, root=root, mair=forest.mair)
        raw = RawTables(params, arena, forest.mair)
        return raw.tables(raw.new_root())


def _region(section: Section, regions: Regions, name: str) -> Region[Attributes]:
    if name not in regions:
        raise section.error("map", f"there is no region {name!r}")
    return regions[name]


def _arena(document: Section, granule: str, index: int) -> Arena:
    """Where the tables of one granule go: 16 MB at ``memory.tables``, then the next 16 MB."""
    base = document.section("memory").number("tables", 0x6000_0000)
    return Arena([(base + (index << 24), 1 << 24)], granule)


def _adjust(forest: Forest, section: Section, name: str) -> None:
    """``link`` and ``set`` of one tree."""
    tree = forest.trees[name]
    raw = RawTables(tree.params, tree.arena, forest.mair)
    links = section.section("link")
    for key in links.fields:
        if not key.isdigit() or int(key) >= tree.params.root_entries:
            raise links.error(key, f"is not an index below {tree.params.root_entries}")
        with within(links.where):
            raw.set_table(tree.root, int(key), forest.table_address(links, key))
    for part in section.sections("set"):
        place = {k: v for k, v in part.fields.items() if k in ("va", "level")}
        address = forest.descriptor_address(
            Section({"table": name, **place}, part.where, part.value)
        )
        rest = {k: v for k, v in part.fields.items() if k != "va"}
        if "value" in rest:
            rest.pop("level", None)
        else:
            rest["table"] = name
        tree.arena.store(address, forest.descriptor(Section(rest, part.where, part.value)))


def captured_segments(memory: Section, path: Callable[[str], str], size: int) -> list[Segment]:
    """The memory of captured cores, and ``empty`` tables of *size* bytes that they left out.

    `UnreadableError` names a file that is no core.
    """
    from ttbr.memory import open_image

    paths = [path(name) for name in memory.names("capture")]
    found = [segment for name in paths for segment in open_image(name).segments]
    return found + [Segment(address, size, bytes(size)) for address in memory.numbers("empty")]
