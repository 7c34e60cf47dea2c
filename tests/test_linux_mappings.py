"""What is mapped, held against the tables of kernels that ran: ID maps and the EL2 map."""

from collections.abc import Iterable

import pytest

from linux_capture import Capture, every, load, nvhe
from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL1, EL2, WalkParams
from ttbr.build import HYP_DATA, HYP_TEXT, Arena, Attributes, build, decode, table_params
from ttbr.linux.config import configure
from ttbr.linux.hyp import HypLayout, hyp_layout
from ttbr.linux.hypspace import private_space
from ttbr.linux.layout import linear_map
from ttbr.linux.mappings import Section, boot_idmap, default_sections, permanent_idmap
from ttbr.linux.realise import realise
from ttbr.linux.strategies import plan
from ttbr.memory import open_image
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
    found = list(runs(open_image(path).memory, params))
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


@every
def test_boot_id_map(capture: Capture) -> None:
    """The ID map that turns the MMU on, from load address, symbols and the device tree's place."""
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
    params = real[0].leaf.params
    built = build(regions, params, base=0x1000000)
    again = [run for run in runs(built.memory(), built.params) if isinstance(run, Run)]
    assert joined(again) == joined(real)


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
    assert planned(permanent_idmap(capture.config, flag.va + 8)) == joined(real)


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


@nvhe
def test_el2_map(capture: Capture) -> None:
    """Planned from board, configuration and symbols: all of it is in the captured EL2 tables."""
    rand = capture.register("40", "VBAR_EL2")
    name = "always-48" if str(capture.config.release) == "6.12" else "wide-hyp"
    found = plan(name, capture.config, capture.board, sections(capture), rand)
    assert found.applicable, found.why_not
    made = realise(found, Arena.at(capture.config.image.end, capture.config.granule))
    ours = [
        run for run in runs(made.tables[0].memory(), made.tables[0].params) if isinstance(run, Run)
    ]
    real = real_runs(capture, "22", "TTBR0_EL2")
    assert made.values["tcr"] & 63 == capture.register("22", "TCR_EL2") & 63
    theirs = RegionMap(
        Region(VA(r.va), PA(r.output), r.size, _kept(decode(r.leaf.descriptor, r.leaf.params)), "")
        for r in real
    )
    for run in ours:
        region = theirs.lookup(run.va)
        assert region is not None, hex(run.va)
        assert run.end <= region.va + region.size
        assert run.output - run.va == region.pa - region.va
        assert _kept(decode(run.leaf.descriptor, run.leaf.params)) == region.attributes
        assert run.leaf.level == 3


@nvhe
def test_what_else_el2_maps(capture: Capture) -> None:
    """Everything in the captured EL2 tables is the ID map, the linear transform, or private."""
    rand = capture.register("40", "VBAR_EL2")
    hyp = hyp_layout(capture.config, capture.board, rand=rand)
    kinds = [_kind(capture, hyp, run) for run in real_runs(capture, "40", "TTBR0_EL2")]
    assert set(kinds) <= {"ID map", "linear", "private", "ID map and private"}
    assert {"linear", "private"} <= {part for kind in kinds for part in kind.split(" and ")}
    assert "ID map" in kinds


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
