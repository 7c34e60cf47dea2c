"""Edits: the tables afterwards, every state on the way, and break-before-make where it is due."""

import random
from collections.abc import Callable

import pytest

from build_maps import STYLES, Stretch, check_attributes, random_params, random_regions, stretches
from ttbr.arch.attributes import PW
from ttbr.arch.descriptors import output_address
from ttbr.arch.regime import EL1, EL2, EL20, STAGE2, WalkParams
from ttbr.build import (
    DEVICE,
    HYP_DATA,
    KERNEL_DATA,
    KERNEL_TEXT,
    STAGE2_RAM,
    Arena,
    Attributes,
    Barrier,
    Editor,
    Invalidate,
    RawTables,
    Step,
    Tables,
    Write,
    WriteTable,
    build,
    regime_name,
    table_params,
)
from ttbr.errors import InvalidError
from ttbr.memory import SparseMemory
from ttbr.regions import Region, RegionMap
from ttbr.walk import Leaf, Run, runs
from ttbr.walk.translate import table_walk

K, M, G = 1 << 10, 1 << 20, 1 << 30


def region(va: int, pa: int, size: int, attributes: Attributes = KERNEL_DATA) -> Region[Attributes]:
    return Region(va, pa, size, attributes)  # type: ignore[arg-type]


def built(*regions: Region[Attributes], regime: str = EL1, **params: bool) -> Tables:
    p = table_params(regime, "4K", 48, **params)
    return build(RegionMap(regions), p, base=0x4000_0000)


def texts(steps: list[Step]) -> list[str]:
    return [step.text.split(" at ")[0] for step in steps]


def test_map_into_a_hole_needs_no_tlbi() -> None:
    tables = built(region(0x4000_0000, 0x8000_0000, 4 * K))
    steps = Editor(tables).map(region(0x4000_1000, 0x8000_1000, 4 * K))
    assert texts(steps) == ["store 0x0060000080001703", "dsb ishst", "isb"]
    assert [step.rule for step in steps] == ["I_WZCBG", "R_SPVBD", "R_BLDZX"]


def test_unmap_a_page() -> None:
    tables = built(region(0x4000_0000, 0x8000_0000, 8 * K))
    steps = Editor(tables).unmap(0x4000_1000, 4 * K)
    assert texts(steps) == [
        "store 0x0000000000000000",
        "dsb ishst",
        "tlbi vaale1is, 0x40001",
        "dsb ish",
        "isb",
    ]


def test_unmap_the_last_page_takes_the_tables_out() -> None:
    tables = built(region(0x4000_0000, 0x8000_0000, 4 * K))
    editor = Editor(tables)
    assert editor.count == 4
    steps = editor.unmap(0x4000_0000, 4 * K)
    # The entry at level 0 goes; the walk may have cached references to tables: all levels.
    assert texts(steps)[0] == "store 0x0000000000000000"
    assert texts(steps)[2] == "tlbi vaae1is, 0x40000"
    assert isinstance(steps[0], Write)
    assert steps[0].level == 0
    assert editor.count == 1
    assert not list(runs(tables.memory(), tables.params))
    editor.budget = 4
    editor.map(region(0x7000_0000, 0x8000_0000, 4 * K))
    assert editor.count == 4


@pytest.mark.parametrize(("bbm", "breaks"), [(0, 1), (1, 1), (2, 0)])
def test_split_of_a_block(bbm: int, breaks: int) -> None:
    tables = built(region(0, 0x8000_0000, 2 * M))
    steps = Editor(tables, bbm=bbm).protect(0x1000, 4 * K, KERNEL_TEXT)
    assert isinstance(steps[0], WriteTable)
    assert steps[0].descriptors[0] != steps[0].descriptors[1]
    assert sum(isinstance(s, Write) and s.new == 0 for s in steps) == breaks
    expected = ["fill table 0x40003000 (level 3, 0x0): 512 valid", "dsb ishst"]
    expected += ["store 0x0000000000000000"] * breaks or ["store 0x0000000040003003"]
    expected += ["dsb ishst", "tlbi vaale1is, 0x0", "dsb ish"]
    expected += ["store 0x0000000040003003", "dsb ishst"] * breaks + ["isb"]
    assert texts(steps) == expected


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        (KERNEL_DATA, KERNEL_TEXT, ""),
        (KERNEL_DATA, KERNEL_DATA.replace(software=3, accessed=False), ""),
        (KERNEL_DATA, DEVICE, "R_WHZWS memory type"),
        (KERNEL_DATA, KERNEL_DATA.replace(shareability="OSH"), "R_WHZWS shareability"),
        (KERNEL_DATA.replace(not_global=True), KERNEL_DATA, "R_WHZWS global"),
        (KERNEL_DATA, KERNEL_DATA.replace(not_global=True), ""),
    ],
)
def test_what_breaks(before: Attributes, after: Attributes, rule: str) -> None:
    other = region(0x20_0000, 0x9000_0000, 4 * K, DEVICE)
    tables = built(region(0x1000, 0x8000_0000, 4 * K, before), other)
    steps = Editor(tables).protect(0x1000, 4 * K, after)
    writes = [s for s in steps if isinstance(s, Write)]
    assert len(writes) == (2 if rule else 1)
    assert writes[0].rule == (rule or "R_WHZWS")


@pytest.mark.parametrize(("bbm", "count"), [(0, 31), (1, 16)])
def test_a_contiguous_group_is_unfolded_as_a_whole(bbm: int, count: int) -> None:
    tables = built(region(0, 0x8000_0000, 64 * K, KERNEL_DATA.replace(contiguous=True)))
    steps = Editor(tables, bbm=bbm).unmap(0x3000, 4 * K)
    writes = [s for s in steps if isinstance(s, Write)]
    assert len(writes) == count  # 16 go, 15 come back; or 16 are changed in place
    assert sum(isinstance(s, Invalidate) for s in steps) == 16
    assert all(not isinstance(r, Run) or not r.leaf.contiguous for r in listed(tables))


def test_protecting_part_of_a_group_breaks_it() -> None:
    tables = built(region(0, 0x8000_0000, 64 * K, KERNEL_DATA.replace(contiguous=True)))
    steps = Editor(tables).protect(0, 64 * K, KERNEL_TEXT.replace(contiguous=True))
    assert {s.rule for s in steps if isinstance(s, Write) and not s.new} == {"R_QTRPM"}
    assert [run.leaf.contiguous for run in listed(tables)] == [True]


def listed(tables: Tables) -> list[Run]:
    return [run for run in runs(tables.memory(), tables.params) if isinstance(run, Run)]


@pytest.mark.parametrize(
    ("regime", "attributes", "operations"),
    [
        (EL2, HYP_DATA, ["tlbi vale2is, 0x1"]),
        (EL20, KERNEL_DATA, ["tlbi vaale1is, 0x1"]),
        (STAGE2, STAGE2_RAM, ["tlbi ipas2le1is, 0x1", "tlbi vmalle1is"]),
    ],
)
def test_operations_of_each_regime(
    regime: str, attributes: Attributes, operations: list[str]
) -> None:
    tables = built(region(0, 0x8000_0000, 12 * K, attributes), regime=regime)
    steps = Editor(tables).unmap(0x1000, 4 * K)
    assert [s.text for s in steps if isinstance(s, Invalidate)] == operations


def test_many_pages_are_invalidated_by_one_operation() -> None:
    tables = built(region(0, 0x8000_0000, 4 * M, KERNEL_DATA.replace(largest=4 * K)))
    steps = Editor(tables).unmap(4 * K, 3 * M)
    assert [s.text for s in steps if isinstance(s, Invalidate)] == ["tlbi vmalle1is"]


def test_refusals_change_nothing() -> None:
    tables = built(region(0, 0x8000_0000, 2 * M))
    before = tables.pages()
    editor = Editor(tables, budget=4)
    free = tables.arena.free_pages
    edits: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: editor.unmap(M, 2 * M), "0x200000 is not mapped"),
        (lambda: editor.unmap(0x1001, 4 * K), "not whole 4K pages"),
        (lambda: editor.unmap(1 << 48, 4 * K), "outside the range of TTBR0_EL1"),
        (lambda: editor.map(region(M, 0, 4 * K)), "0x100000 is mapped already"),
        (lambda: editor.map(region(4 * G, 0, 4 * K)), "needs 5 tables, the budget is 4"),
        (lambda: editor.protect(0, 4 * K, DEVICE), "has no Device-nGnRE"),
    )
    for edit, message in edits:
        with pytest.raises(InvalidError, match=message):
            edit()
    assert editor.count == 3
    assert {a: d for a, d in tables.pages().items() if any(d)} == before
    editor.budget = 5
    editor.map(region(4 * G, 0, 4 * K))
    assert editor.count == 5
    assert free - tables.arena.free_pages <= 2


def test_a_tree_that_refers_to_itself_is_refused() -> None:
    raw = RawTables(table_params(EL1, "4K", 48), Arena.at(0x4000_0000))
    root = raw.new_root()
    raw.set_table(root, 511, root)
    with pytest.raises(InvalidError, match="0x40000000 is referred to twice"):
        Editor(raw.tables(root))
    level1, level2 = raw.new_table(), raw.new_table()
    raw.set(root, 511, 0)
    raw.set_table(root, 0, level1)
    raw.set_table(level1, 0, level2)
    assert Editor(raw.tables(root)).count == 3


def test_bbm_level() -> None:
    with pytest.raises(InvalidError, match="bbm 3"):
        Editor(built(region(0, 0, 4 * K)), bbm=3)


class Model:
    """What should be mapped, as a list of regions that are cut and put together."""

    def __init__(self, regions: RegionMap[Attributes]) -> None:
        self.regions = list(regions)

    def cut(self, va: int, end: int) -> list[Region[Attributes]]:
        """Take *va* to *end* out; what was there."""
        kept: list[Region[Attributes]] = []
        taken: list[Region[Attributes]] = []
        for r in self.regions:
            stop = r.va + r.size
            for low, high, into in (
                (r.va, min(stop, va), kept),
                (max(r.va, va), min(stop, end), taken),
                (max(r.va, end), stop, kept),
            ):
                if low < high:
                    into.append(r.clip(low, high - 1))
        self.regions = kept
        return taken

    def put(self, more: list[Region[Attributes]]) -> None:
        self.regions = sorted([*self.regions, *more], key=lambda r: r.va)


def random_edit(rng: random.Random, editor: Editor, model: Model) -> list[Step] | None:
    """One legal edit of tables and model; None where chance gave nothing to do."""
    p = editor.tables.params
    page = p.granule.size
    kind = rng.choice(("unmap", "protect", "map"))
    if kind == "map":
        return _random_map(rng, editor, model)
    if not model.regions:
        return None
    chosen = rng.choice(model.regions)
    first = chosen.va + rng.choice((0, rng.randrange(chosen.size))) & -page
    size = min(
        rng.choice((page, rng.randrange(1, 400) * page, 1 << 40)), chosen.va + chosen.size - first
    )
    taken = model.cut(first, first + size)
    if kind == "unmap":
        return editor.unmap(first, size)
    attributes = rng.choice(STYLES[regime_name(p)])
    model.put([Region(r.va, r.pa, r.size, attributes) for r in taken])
    if not known(editor.tables, attributes):
        with pytest.raises(InvalidError, match="MAIR"):
            editor.protect(first, size, attributes)
        model.cut(first, first + size)
        model.put(taken)
        return None
    return editor.protect(first, size, attributes)


def known(tables: Tables, attributes: Attributes) -> bool:
    """Whether MAIR has the memory type: an edit may not add one."""
    types = [tables.mair.value >> 8 * i & 0xFF for i in range(8) if tables.mair.used >> i & 1]
    return tables.params.stage == 2 or attributes.memory_byte in types


def _random_map(rng: random.Random, editor: Editor, model: Model) -> list[Step] | None:
    p = editor.tables.params
    fresh = rng.choice(list(random_regions(rng, p, regime_name(p), most=2, pages=300)))
    for old in model.regions:
        if old.va < fresh.va + fresh.size and fresh.va < old.va + old.size:
            return None
    if not known(editor.tables, fresh.attributes):
        return None
    steps = editor.map(fresh)
    model.put([fresh])
    return steps


def check_model(tables: Tables, model: Model) -> None:
    """The walk of *tables* is the model; contiguous groups are legal."""
    p, found = tables.params, listed(tables)
    plain = [
        Region(r.va, r.pa, r.size, r.attributes.replace(largest=None, contiguous=False))
        for r in model.regions
    ]
    wanted = stretches(plain)
    at = 0
    for stretch in wanted:
        va = stretch.va
        while va < stretch.end:
            run = found[at]
            assert (run.va, run.output) == (va, stretch.pa + va - stretch.va)
            assert run.end <= stretch.end
            check_attributes(run.leaf, stretch.attributes)
            if run.leaf.contiguous:
                group = p.granule.contiguous[run.leaf.level] * run.leaf.size
                assert run.va % group == run.size % group == run.output % group == 0
            va, at = run.end, at + 1
    assert at == len(found)


def check_steps(before: dict[int, bytes], tables: Tables, steps: list[Step], bbm: int) -> None:
    """Replay *steps* on the old bytes: legal in every state, and the new tables at the end."""
    p = tables.params
    memory = {address: bytearray(data) for address, data in before.items()}
    for address, data in tables.pages().items():
        if address not in memory:
            memory[address] = bytearray(len(data))
    linked = SparseMemory(memory)
    broken: dict[int, Broken] = {}
    live = reachable(linked, p)
    pages = sorted(memory)
    for step in steps:
        if isinstance(step, WriteTable):
            assert step.address not in live
            assert not broken
            store(
                memory,
                pages,
                step.address,
                b"".join(d.to_bytes(8, "little") for d in step.descriptors),
            )
        elif isinstance(step, Write):
            old = int.from_bytes(linked.read(step.address, 8), "little")
            assert old == step.old
            if not old & 1:
                assert step.address not in broken or broken.pop(step.address).phase == COMPLETE
            elif step.new & 1:
                assert not must_break(p, step, bbm)
            if old & 1:
                broken[step.address] = Broken(p, linked, step)
            store(memory, pages, step.address, step.new.to_bytes(8, "little"))
        else:
            for entry in broken.values():
                entry.advance(step)
    assert isinstance(steps[-1], Barrier)
    assert steps[-1].text == "isb"
    assert all(entry.phase == COMPLETE for entry in broken.values())
    assert list(runs(linked, p)) == list(runs(tables.memory(), p))


def store(memory: dict[int, bytearray], pages: list[int], address: int, data: bytes) -> None:
    from bisect import bisect_right

    page = pages[bisect_right(pages, address) - 1]
    memory[page][address - page : address - page + len(data)] = data


STORED, SEEN, ISSUED, COMPLETE = range(4)


class Broken:
    """A live entry that was written, and what TLBs may still have of it.

    `stale` are the leaves that the entry gave (va -> size), as a walk just before the write finds
    them; `phase` goes on with each DSB and with the TLBI that leaves nothing stale.
    """

    def __init__(self, p: WalkParams, memory: SparseMemory, step: Write) -> None:
        self.p, self.phase = p, STORED
        self.is_table = step.level < 3 and step.old & 2 != 0
        size = p.granule.entry_size(step.level)
        self.stale: dict[int, int] = {}
        for run in runs(memory, p, low=step.va, high=step.va + size - 1):
            assert isinstance(run, Run)
            low, end = max(run.va, step.va), min(run.end, step.va + size)
            self.stale |= dict.fromkeys(range(low, end, run.leaf.size), run.leaf.size)
        self.whole = {step.va: size}

    def advance(self, step: Step) -> None:
        if isinstance(step, Barrier):
            if step.text.startswith("dsb") and self.phase in (STORED, ISSUED):
                self.phase += 1
        elif isinstance(step, Invalidate) and self.phase == SEEN:
            if step.argument is None:
                done = step.operation != "vmalle1is" or self.p.stage == 1
            else:
                done = self._by_address(step.operation, step.argument << 12)
            self.phase = ISSUED if done else SEEN

    def _by_address(self, operation: str, page: int) -> bool:
        if self.is_table and "le" in operation:
            return False
        for left in (self.stale, self.whole):
            for va, size in list(left.items()):
                low = va & (1 << 56) - 1
                if low <= page < low + size:
                    del left[va]
        return not self.stale and not self.whole


def reachable(memory: SparseMemory, p: WalkParams) -> set[int]:
    from ttbr.walk.iterate import TableCount

    count = TableCount()
    list(runs(memory, p, count=count))
    return set(count.tables)


def must_break(p: WalkParams, step: Write, bbm: int) -> bool:
    """R_WHZWS for a live entry, said apart from the builder: by what the two entries translate."""
    level = next(row for row in p.levels if row.level == step.level)
    is_table = [d & 2 and step.level < 3 for d in (step.old, step.new)]
    if is_table[0] != is_table[1]:
        return bbm < 2
    if all(is_table):
        return False
    leaves = [
        Leaf(p, step.level, level.shift, output_address(d, p.form, level.shift), d, 0)
        for d in (step.old, step.new)
    ]
    one, two = leaves
    if one.output != two.output and (one.permissions | two.permissions) & PW:
        return True
    if (one.attr, one.shareability) != (two.attr, two.shareability):
        return True
    if one.contiguous != two.contiguous:
        return bbm < 1
    if one.contiguous:
        return True
    return p.stage == 1 and p.el0 and bool(step.old >> 11 & 1) and not step.new >> 11 & 1


def one_case(seed: int, edits: int = 4) -> None:
    rng = random.Random(seed)
    p = random_params(rng)
    regions = random_regions(rng, p, regime_name(p), most=5, pages=400)
    tables = build(regions, p, base=0x4000_0000 if p.root_size < 1 << 22 else 1 << 35)
    bbm = rng.choice((0, 0, 1, 2))
    editor, model = Editor(tables, bbm=bbm), Model(regions)
    for _ in range(edits):
        before = tables.pages()
        steps = random_edit(rng, editor, model)
        if steps is None:
            continue
        check_model(tables, model)
        check_steps(before, tables, steps, bbm)
        found = len(reachable(SparseMemory(tables.pages()), tables.params))
        concatenated = max(p.root_size // p.granule.size, 1)
        assert editor.count == found - 1 + concatenated
        assert tables.estimate is None
        assert Editor(tables).count == editor.count


@pytest.mark.parametrize("batch", range(4))
def test_random_edits(batch: int) -> None:
    for seed in range(batch * 15, batch * 15 + 15):
        one_case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(8))
def test_many_random_edits(batch: int) -> None:
    for seed in range(1000 + batch * 60, 1000 + batch * 60 + 60):
        one_case(seed, 6)


def test_a_walk_in_the_middle_of_a_break_faults() -> None:
    tables = built(region(0, 0x8000_0000, 2 * M), region(4 * M, 0x9000_0000, 4 * K))
    pages = {a: bytearray(d) for a, d in tables.pages().items()}
    steps = Editor(tables).unmap(0x1000, 4 * K)
    broke = next(s for s in steps if isinstance(s, Write))
    store(pages, sorted(pages), broke.address, bytes(8))
    memory = SparseMemory(pages)
    assert not isinstance(table_walk(memory, tables.params, 0x5000, []), Leaf)
    assert isinstance(table_walk(memory, tables.params, 4 * M, []), Leaf)


def test_stretch_of_a_region() -> None:
    assert Stretch(region(0x1000, 0x2000, 0x3000)).end == 0x4000
