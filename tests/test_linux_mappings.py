"""What is mapped, held against the tables of kernels that ran: ID maps and the EL2 map."""

from collections.abc import Iterable, Sequence

import pytest

from linux_capture import Capture, every, load, nvhe
from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL1, EL2, WalkParams
from ttbr.arch.registers import REGISTERS
from ttbr.build import HYP_DATA, HYP_TEXT, Arena, Attributes, build, decode, table_params
from ttbr.linux.config import configure
from ttbr.linux.hyp import HypLayout, hyp_layout
from ttbr.linux.hypspace import private_space
from ttbr.linux.layout import linear_map
from ttbr.linux.mappings import Section, boot_idmap, default_sections, permanent_idmap
from ttbr.linux.realise import Realised, realise
from ttbr.linux.strategies import plan
from ttbr.memory import Memory, open_image
from ttbr.record import replace
from ttbr.regions import Region, RegionMap
from ttbr.walk import Run, runs


@pytest.fixture(scope="module")
def capture(request: pytest.FixtureRequest) -> Capture:
    return load(request.param)


def real_runs(capture: Capture, moment: str, root: str) -> list[Run]:
    """The mappings under one of the roots that the capture names."""
    state = capture.moments[moment]
    found = next(entry for entry in state["roots"] if entry["name"] == root)
    page = {4096: "4K", 16384: "16K", 65536: "64K"}[found["granule"]]
    regime = EL2 if root == "TTBR0_EL2" else EL1
    params = table_params(regime, page, found["input_bits"], ds=bool(found["ds"]))
    el = 2 if regime == EL2 or state["e2h"] else 1
    params = replace(
        params, root=int(found["pa"], 16), mair=capture.register(moment, f"MAIR_EL{el}")
    )
    return listed(str(next(capture.path.glob(f"{moment}_*")) / "tables.elf.gz"), params)


def listed(path: str, params: WalkParams) -> list[Run]:
    return listed_runs(open_image(path).memory, params)


def listed_runs(memory: Memory, params: WalkParams) -> list[Run]:
    found = list(runs(memory, params))
    assert all(isinstance(item, Run) for item in found)
    return [item for item in found if isinstance(item, Run)]


def joined(found: Iterable[Run]) -> list[str]:
    """VA, PA, size, memory type and permissions, whatever the leaves' sizes."""
    return _lines(
        Region(VA(r.va), PA(r.output), r.size, _kept(decode(r.leaf.descriptor, r.leaf.params)), "")
        for r in found
    )


def _kept(attributes: Attributes) -> Attributes:
    return Attributes(attributes.memory, attributes.access, attributes.user)


def _lines(regions: Iterable[Region[Attributes]]) -> list[str]:
    return [
        f"{r.va:#x} -> {r.pa:#x} {r.size:#x} {_text(r.attributes)}"
        for r in RegionMap(regions).merged()
    ]


def _text(attributes: Attributes) -> str:
    return f"{attributes.memory} {attributes.access} {attributes.user or '---'}"


def planned(regions: Iterable[Region[Attributes]]) -> list[str]:
    return _lines(Region(r.va, r.pa, r.size, _kept(r.attributes), "") for r in regions)


# Bits of leaves that Linux has more, none of which changes a walk: 55 is PTE_DIRTY, for software;
# 51 is DBM, by which Linux marks what is writable (TCR_EL1.HD is 0).
DIRTY, DBM = 1 << 55, 1 << 51
BOOT_BITS = {"6.1": {"r-x": {0}, "rwx": {0}}, "6.12": {"r-x": {DIRTY}, "rw-": {DIRTY | DBM}}}
PERMANENT_BITS = {"r-x": {DIRTY}, "rw-": {DIRTY | DBM}}

# Stack alignment, W^X by the CPU, error synchronisation; and what 6.12 has on a newer CPU.
SCTLR_BITS = {3: "SA", 19: "WXN", 21: "IESB"}
POINTER_AUTHENTICATION = {13: "EnDB", 27: "EnDA", 30: "EnIB", 31: "EnIA"}
# TCR_EL2.PS there and planned.
EL2_PS = {
    "lin61-4k39-512G-nvhe": (4, 5),
    "lin61-4k39-low-nvhe": (4, 5),
    "lin61-64k42-high-nvhe": (4, 5),
    "deb61-a57-nvhe": (4, 5),
}

# What EL2 maps besides the sections that the captured symbols name: where it starts, and why.
EL2_REASONS = {
    "_etext": "the kernel's read-only data, mapped for KVM's own rodata",
    "__kvm_nvhe___hyp_bss_end": "the kernel's bss, read-only at EL2",
    "__kvm_nvhe___kvm_hyp_vector": "indirect vectors (Spectre-v3a) beside the ID map",
    "__kvm_nvhe___bp_harden_hyp_vecs": "indirect vectors (Spectre-v3a) beside the ID map",
    "__hyp_idmap_text_start": "indirect vectors: with 64K pages in the page of the ID map",
    "data": "KVM's bss, or the kernel's: Debian's kernel does not list the symbols",
    "allocated": "per-CPU areas, parameters and stacks, allocated at start",
}
EL2_MORE = {
    "lin61-4k39-512G-nvhe": """
linear _etext 0xb2000 r--
linear __kvm_nvhe___hyp_bss_end 0x33000 r--
linear allocated 0x2000 rw-
linear allocated 0x1000 rw-
linear allocated 0x3000 rw-
linear allocated 0x1000 rw-
private __kvm_nvhe___kvm_hyp_vector 0x2000 r-x
private allocated 0x1000 rw-
""",
    "lin61-4k39-low-nvhe": """
private __kvm_nvhe___kvm_hyp_vector 0x2000 r-x
private allocated 0x1000 rw-
linear _etext 0xb2000 r--
linear __kvm_nvhe___hyp_bss_end 0x33000 r--
linear allocated 0x2000 rw-
linear allocated 0x1000 rw-
linear allocated 0x3000 rw-
linear allocated 0x1000 rw-
""",
    "lin61-16k36-64G-nvhe": """
linear _etext 0xbc000 r--
linear __kvm_nvhe___hyp_bss_end 0x38000 r--
linear allocated 0x4000 rw-
linear allocated 0x4000 rw-
linear allocated 0x4000 rw-
private allocated 0x4000 rw-
""",
    "lin61-16k47-low-nvhe": """
private allocated 0x4000 rw-
linear _etext 0xbc000 r--
linear __kvm_nvhe___hyp_bss_end 0x3c000 r--
linear allocated 0x4000 rw-
linear allocated 0x4000 rw-
linear allocated 0x4000 rw-
linear allocated 0x4000 rw-
""",
    "lin61-64k42-high-nvhe": """
linear allocated 0x10000 rw-
linear _etext 0xe0000 r--
linear __kvm_nvhe___hyp_bss_end 0x50000 r--
linear allocated 0x10000 rw-
linear allocated 0x10000 rw-
linear allocated 0x10000 rw-
private __hyp_idmap_text_start 0x10000 r-x
private allocated 0x10000 rw-
""",
    "deb61-a57-nvhe": """
private __kvm_nvhe___bp_harden_hyp_vecs 0x2000 r-x
private allocated 0x1000 rw-
linear _etext 0x94c000 r--
linear data 0x2000 rw-
linear data 0x9b000 r--
linear allocated 0x2000 rw-
linear allocated 0x1000 rw-
linear allocated 0x1000 rw-
linear allocated 0x3000 rw-
""",
    "deb612-4k52lpa2-max-nvhe": """
private allocated 0x1000 rw-
linear _etext 0xdad000 r--
linear __kvm_nvhe___hyp_bss_end 0xe9000 r--
linear allocated 0x3000 rw-
linear allocated 0x3000 rw-
linear allocated 0x1000 rw-
linear allocated 0x1000 rw-
""",
}


def more_bits(regions: Sequence[Region[Attributes]], real: list[Run]) -> dict[str, set[int]]:
    """By access, the descriptor bits in which the built leaves differ; sizes must be equal."""
    built = build(regions, real[0].leaf.params, base=0x1000000)
    ours = listed_runs(built.memory(), built.params)
    assert [(_key(run), run.leaf.level) for run in ours] == [
        (_key(run), run.leaf.level) for run in real
    ]
    bits: dict[str, set[int]] = {}
    for run, theirs in zip(ours, real, strict=True):
        access = decode(run.leaf.descriptor, run.leaf.params).access
        bits.setdefault(access, set()).add(run.leaf.descriptor ^ theirs.leaf.descriptor)
    return bits


@every
def test_boot_id_map(capture: Capture) -> None:
    """The ID map that turns the MMU on, from load address, symbols and the device tree's place.

    One number of 6.12 is not planned but taken from the captured tables: `begin`.
    """
    real = real_runs(capture, "04", "sym:init_idmap_pg_dir")
    config, symbols = capture.config, capture.symbols
    if str(config.release) == "6.12":
        # __initdata_begin is not in the captured symbols: it is where the map becomes writable.
        begin = next(
            run.va for run in real if "w" in decode(run.leaf.descriptor, run.leaf.params).access
        )
        regions = boot_idmap(
            config, stext=capture.physical("_stext"), writable=(begin, config.image.end)
        )
    else:
        end = "init_pg_end" if "init_pg_end" in symbols else "_end"
        regions = boot_idmap(
            config,
            writable=(capture.physical("init_pg_dir"), capture.physical(end)),
            fdt=int(capture.moments["01"]["core"]["x0"], 16),
        )
    assert planned(regions) == joined(real)
    release = "6.12" if str(config.release) == "6.12" else "6.1"
    assert more_bits(regions, real) == BOOT_BITS[release]


@every
def test_permanent_id_map(capture: Capture) -> None:
    """idmap_pg_dir of the running kernel: the page of .idmap.text; the KPTI flag's beside it."""
    moment = "11"
    real = real_runs(capture, moment, "sym:idmap_pg_dir")
    regions = permanent_idmap(capture.config)
    assert planned(regions) == joined(real)[:1]
    # The flag's address is not in the captured symbols; its page is writable data of the image.
    (flag,) = real[1:]
    assert capture.config.image.text < flag.va < capture.config.image.end
    regions = permanent_idmap(capture.config, flag.va + 8)
    assert planned(regions) == joined(real)
    assert more_bits(regions, real) == PERMANENT_BITS


def sections(capture: Capture) -> list[Section]:
    """The sections that the captured symbols name."""
    page, symbols = capture.config.granule.size, capture.symbols
    start = capture.physical("__hyp_idmap_text_start")
    found = [
        Section("HYP text", start & -page, capture.physical("__kvm_nvhe___hyp_text_end"), HYP_TEXT)
    ]
    if "__kvm_nvhe___hyp_bss_start" in symbols:
        low, high = (capture.physical(f"__kvm_nvhe___hyp_bss_{end}") for end in ("start", "end"))
        found.append(Section("HYP bss", low & -page, -(-high // page) * page, HYP_DATA))
    return found


def el2_plan(capture: Capture) -> Realised:
    """EL2 planned from board, configuration and symbols, with the random tag of that boot."""
    rand = capture.register("40", "VBAR_EL2")
    name = "always-48" if str(capture.config.release) == "6.12" else "wide-hyp"
    found = plan(name, capture.config, capture.board, sections(capture), rand)
    assert found.applicable, found.why_not
    return realise(found, Arena.at(capture.config.image.end, capture.config.granule))


@nvhe
def test_el2_map(capture: Capture) -> None:
    """All that is planned is in the captured tables to the bit; what they have more is listed."""
    made = el2_plan(capture)
    ours = {_key(run): run for run in listed_runs(made.tables[0].memory(), made.tables[0].params)}
    real = real_runs(capture, "40", "TTBR0_EL2")
    theirs = {_key(run): run for run in real}
    assert {run.leaf.level for run in real} == {3}
    assert ours.keys() <= theirs.keys()
    assert all(ours[key].leaf.descriptor == theirs[key].leaf.descriptor for key in ours)
    rand = capture.register("40", "VBAR_EL2")
    hyp = hyp_layout(capture.config, capture.board, rand=rand)
    more = [_named(capture, hyp, theirs[key]) for key in sorted(theirs.keys() - ours.keys())]
    assert sorted(more) == sorted(EL2_MORE[capture.path.name].strip().splitlines())
    assert {line.split()[1] for line in more} <= EL2_REASONS.keys()


@nvhe
def test_el2_registers(capture: Capture) -> None:
    """TCR_EL2 but for PS is what is planned; the others have bits that do not concern the maps."""
    values, ps = el2_plan(capture).values, REGISTERS["TCR_EL2"]["PS"]
    real = {n: capture.register("40", n) for n in ("TCR_EL2", "MAIR_EL2", "SCTLR_EL2")}
    # PS is the CPU's PARange there, 44 bits on a Cortex-A57; the plan is for any CPU.
    assert (ps.get(real["TCR_EL2"]), ps.get(values["tcr"])) == EL2_PS.get(
        capture.path.name, (ps.get(values["tcr"]),) * 2
    )
    assert real["TCR_EL2"] == ps.put(values["tcr"], ps.get(real["TCR_EL2"]))
    # Linux sets all of its memory types; index 0, which is the one used, is the same.
    assert (real["MAIR_EL2"], values["mair"]) == (0x4_0044_FFFF, 0xFF)
    newer = str(capture.config.release) == "6.12"
    bits = SCTLR_BITS | (POINTER_AUTHENTICATION if newer else {})
    assert real["SCTLR_EL2"] ^ values["sctlr"] == sum(1 << bit for bit in bits)


def _key(run: Run) -> tuple[int, int, int]:
    return run.va, run.output, run.size


PARTS = (
    "_etext",
    "__kvm_nvhe___hyp_bss_end",
    "__kvm_nvhe___kvm_hyp_vector",
    "__kvm_nvhe___bp_harden_hyp_vecs",
    "__hyp_idmap_text_start",
)


def _named(capture: Capture, hyp: HypLayout, run: Run) -> str:
    """Kind, first symbol or where it is, size and access."""
    image, access = capture.config.image, decode(run.leaf.descriptor, run.leaf.params).access
    names = (n for n in PARTS if n in capture.symbols and capture.physical(n) == run.output)
    inside = image.start <= run.output < image.end
    where = next(names, "data" if inside else "allocated")
    return f"{_kind(capture, hyp, run)} {where} {run.size:#x} {access}"


def _kind(capture: Capture, hyp: HypLayout, run: Run) -> str:
    linear, space = linear_map(capture.config, capture.board), private_space(capture.config, hyp)
    assert space is not None
    if run.va == run.output == hyp.idmap[0] and run.end == hyp.idmap[1]:
        return "ID map"
    # Kernel data (rodata, bss, per-CPU areas, stacks) at its HYP address, to the last byte.
    ends = (run.output, run.output + run.size - 1)
    if [hyp.hyp_va(linear.to_virt(pa)) for pa in ends] == [run.va, run.end - 1]:
        return "linear"
    # Vectors and stacks, allocated downwards from the ID map.
    return "private" if space.floor <= run.va and run.end <= space.top else "unknown"


def test_default_sections_cover_the_image() -> None:
    config = configure("6.1", "16K", 47, 0x80200000, image_end=0x80671234, idmap_text=0x80400000)
    first, second = default_sections(config)
    assert (first.start, second.end) == (0x80200000, 0x80674000)
    assert first.end == second.start == 0x80404000


def test_old_kernels_map_one_writable_range() -> None:
    config = configure("4.4", "4K", 39, 0x8000080000, idmap_text=0x8000701000)
    (region,) = boot_idmap(config)
    assert (region.va, region.size, region.attributes.access) == (0x8000600000, 0x200000, "rwx")
    assert permanent_idmap(config) == boot_idmap(config)
