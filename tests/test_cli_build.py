"""`ttbr build`: what it writes is read back, linked or compiled, and walked to what was asked for."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import process, ttbr
from ttbr.arch.regime import EL2, regime_of
from ttbr.cli.plan import replan
from ttbr.cli.plan_tables import VALUES, parts_of
from ttbr.linux.strategies import Plan, plan
from ttbr.memory import SegmentMemory, SparseMemory
from ttbr.walk import READ, Mapping, Run, runs, translate

CROSS = "aarch64-linux-gnu-"
needs_gnu = pytest.mark.skipif(
    shutil.which(CROSS + "gcc") is None, reason="no cross compiler: apt-get install gcc-aarch64-linux-gnu"
)  # fmt: skip

XGENE = ("xgene1", "--va-bits", "39", "--era", "4.1")
SEATTLE = ("seattle", "--va-bits", "39", "--era", "4.1")
PLANS = {
    "separate": XGENE,
    "level-skip-v1": SEATTLE,
    "merged-root": SEATTLE,
    "dedicated-root": SEATTLE,
    "mmu-off": SEATTLE,
}


def saved(folder: Path, strategy: str, *words: object) -> Path:
    """A plan as `ttbr plan --json` writes it."""
    path = folder / "plan.json"
    path.write_text(ttbr("plan", *words, "--strategy", strategy, "--json").out)
    return path


def planned(path: Path) -> Plan:
    board, config, strategy = replan(json.loads(path.read_text())["request"], str(path))
    return plan(strategy, config, board)


def elf_of(path: Path) -> tuple[SegmentMemory, dict[str, int]]:
    """The tables of an object and its absolute symbols; roots at their addresses."""
    from elftools.elf.elffile import ELFFile

    pages, starts, symbols = {}, {}, {}
    with path.open("rb") as file:
        elf = ELFFile(file)
        for index, section in enumerate(elf.iter_sections()):
            if section.name.startswith(".ttbr."):
                starts[index] = int(section.name.rsplit(".", 1)[1], 16)
                pages[starts[index]] = section.data()
        table: Any = elf.get_section_by_name(".symtab")
        for symbol in table.iter_symbols():
            symbols[symbol.name] = symbol["st_value"] + starts.get(symbol["st_shndx"], 0)
    return SparseMemory(pages), symbols


def object_of(folder: Path, source: Path) -> tuple[SegmentMemory, dict[str, int]]:
    """What an output file holds: an object as it is, a source assembled or compiled."""
    made = folder / "made.o"
    if source.suffix == ".o":
        return elf_of(source)
    if source.suffix == ".S":
        subprocess.run([CROSS + "as", "-o", made, source], check=True)
        return elf_of(made)
    (folder / "use.c").write_text(f'#include "{source.name}"\n')
    flags = ["-Wall", "-Werror", "-ffreestanding", "-I", str(folder)]
    subprocess.run([CROSS + "gcc", *flags, "-c", "-o", made, folder / "use.c"], check=True)
    macros = subprocess.run(
        [CROSS + "gcc", *flags, "-E", "-dM", folder / "use.c"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    found = re.findall(r"#define TABLES_(\w+) UINT64_C\((0x\w+)\)", macros)
    return elf_of(made)[0], {f"tables_{name.lower()}": int(value, 16) for name, value in found}


def walk_plan(memory: SegmentMemory, symbols: dict[str, int], chosen: Plan) -> None:
    """Every region of the plan is where its walk, before or after the switch, says."""
    value = {name: symbols[f"tables_{name}"] for name in VALUES}
    shared = {"MAIR_EL2": value["mair"], "SCTLR_EL2": value["sctlr"]}
    boot = shared | {"TTBR0_EL2": value["boot_ttbr0"], "TCR_EL2": value["tcr"]}
    run = shared | {"TTBR0_EL2": value["run_ttbr0"], "TCR_EL2": value["run_tcr"]}
    asked = [(boot, chosen.roots[0].regions), (run, chosen.roots[-1].regions)]
    if chosen.skip is not None:
        assert chosen.window is not None
        asked = [(boot, chosen.roots[1].regions), (run, chosen.roots[0].regions)]
        asked += [(registers, (chosen.window,)) for registers in (boot, run)]
    for registers, regions in asked:
        regime = regime_of(registers, EL2)
        assert regions
        for region in regions:
            for va in (region.va, region.last):
                found = translate(memory, regime, va, READ)
                assert isinstance(found, Mapping), hex(va)
                assert found.pa == region.pa + va - region.va


@needs_gnu
@pytest.mark.parametrize("suffix", [".o", ".S", ".h"])
@pytest.mark.parametrize("strategy", PLANS)
def test_all_roots_and_values_of_a_plan(tmp_path: Path, strategy: str, suffix: str) -> None:
    path = saved(tmp_path, strategy, *PLANS[strategy])
    out = tmp_path / f"tables{suffix}"
    told = ttbr("build", path, "-o", out, "--json").json
    memory, symbols = object_of(tmp_path, out)
    chosen = planned(path)
    assert {f"tables_{n}": int(v, 16) for n, v in told["values"].items()}.items() <= symbols.items()
    assert {f"tables_{n}": int(v, 16) for n, v in told["roots"].items()}.items() <= symbols.items()
    assert len(told["roots"]) == (1 if chosen.skip else len(chosen.roots))
    walk_plan(memory, symbols, chosen)


def test_values_of_a_plan_in_rust_and_in_text(tmp_path: Path) -> None:
    path = saved(tmp_path, "separate", *XGENE)
    out = tmp_path / "tables.rs"
    text = ttbr("build", path, "-o", out).out
    told = ttbr("build", path, "--json").json
    constants = dict(re.findall(r"pub const (\w+): u64 = (0x\w+);", out.read_text()))
    names = told["values"] | told["roots"]
    assert constants == {name.upper(): value for name, value in names.items()}
    assert set(told["roots"]) == {"root_boot", "root_run_time"}
    for name, value in told["values"].items():
        assert f"  {name:10} = {int(value, 16):#018x}\n" in text
    assert "root boot 0x4001200000, root run time 0x4001205000" in text


def test_level_skip_has_both_values_of_tcr(tmp_path: Path) -> None:
    values = ttbr("build", saved(tmp_path, "level-skip-v1", *SEATTLE), "--json").json["values"]
    assert int(values["tcr"], 16) & 0x3F == 24
    assert int(values["run_tcr"], 16) & 0x3F == 25


@pytest.mark.parametrize("strategy", PLANS)
def test_the_estimate_of_a_plan_is_what_is_built(tmp_path: Path, strategy: str) -> None:
    path = saved(tmp_path, strategy, *PLANS[strategy])
    counted = ttbr("build", path, "--estimate", "--json").json
    assert "values" not in counted
    built = ttbr("build", path, "--json").json
    assert counted["estimate"] == built["estimate"]
    assert built["estimate"]["tables"] == built["tables"]
    assert ttbr("build", path, "--budget", built["tables"]).status == 0


def test_a_plan_is_counted_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, "separate", *XGENE)

    def never(*_: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr("ttbr.linux.realise.realise", never)
    monkeypatch.setattr("ttbr.cli.plan_tables.realise", never)
    lines = ttbr("build", path, "--estimate").out.splitlines()
    assert lines == [
        "boot: 5 tables (20K): 1 at level 1, 2 at level 2, 2 at level 3",
        "run time: 13 tables (52K): 1 at level 1, 2 at level 2, 10 at level 3",
        "18 tables in all",
    ]
    said = ttbr("build", path, "--budget", "17", "-o", tmp_path / "x.bin").refusal
    assert "needs 18 tables (boot: 5 tables (1 at level 1, 2 at level 2, 2 at level 3); run" in said
    assert said.endswith("the budget is 17")
    assert not (tmp_path / "x.bin").exists()


SMALL = """
name = "small"
[[memory]]
start = 0x8000000000
size = 0x1210000
[[reserved]]
start = 0x8001200000
size = 0x4000
name = "firmware"
"""


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("0x4000080000", "tables at 0x4000080000: inside the image 0x4000080000-0x400106ffff"),
        ("0x80000", "tables at 0x80000: not in the RAM of xgene1"),
        ("0x43fffff000", "needs 18 tables of 0x1000 bytes, the free RAM from 0x43fffff000 to"),
        ("0x400007f000", "the free RAM from 0x400007f000 to 0x400007ffff has 1"),
        ("0x4100000800", "not aligned to the 4K page"),
    ],
)
def test_where_tables_must_not_be(tmp_path: Path, base: str, said: str) -> None:
    path = saved(tmp_path, "separate", *XGENE)
    assert said in ttbr("build", path, "--base", base).refusal


def test_tables_are_put_into_free_ram(tmp_path: Path) -> None:
    board = tmp_path / "small.toml"
    board.write_text(SMALL)
    path = saved(tmp_path, "merged-root", board, *SEATTLE[1:])
    said = ttbr("build", path, "--base", "0x8001203000").refusal
    assert "inside reserved RAM firmware 0x8001200000-0x8001203fff" in said
    assert (
        "0x8001204000 to 0x800120ffff has 12"
        in ttbr("build", path, "--base", "0x8001204000").refusal
    )
    # After the image, but for what is reserved, are 12 pages; the others are found below it.
    out = tmp_path / "tables.o"
    built = ttbr("build", path, "-o", out, "--json").json
    assert built["root"] == "0x8001204000"
    memory, symbols = elf_of(out)
    walk_plan(memory, symbols, planned(path))
    taken = [(s.address, s.end) for s in memory.segments]
    image = planned(path).config.image
    for start, end in taken:
        assert 0x80_0000_0000 <= start < end <= 0x80_0121_0000
        assert end <= image.start or start >= image.end
        assert end <= 0x80_0120_0000 or start >= 0x80_0120_4000


def test_no_room_at_all(tmp_path: Path) -> None:
    board = tmp_path / "tiny.toml"
    board.write_text('name = "tiny"\n[[memory]]\nstart = 0x8000080000\nsize = 0xff8000\n')
    words = (board, *SEATTLE[1:], "--image", "0x8000080000")
    path = saved(tmp_path, "merged-root", *words)
    said = ttbr("build", path).refusal
    assert said.endswith("the free RAM of tiny has 8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"page": None}, "the request lacks page"),
        ({"va_bits": None}, "the request lacks va_bits"),
        ({"pa_bits": None}, "the request lacks pa_bits"),
        ({"vhe": None}, "the request lacks vhe"),
        ({"strategy": None}, "the request lacks strategy"),
        ({"va_bits": True}, "request.va_bits is not of the form"),
        ({"vhe": 1}, "request.vhe is not of the form"),
        ({"image": 1}, "request.image is not of the form"),
        ({"page": "8K"}, "granule '8K'"),
    ],
)
@pytest.mark.parametrize("command", ["build", "verify"])
def test_requests_of_another_form(
    tmp_path: Path, command: str, change: dict[str, Any], said: str
) -> None:
    path = saved(tmp_path, "merged-root", *SEATTLE)
    request = json.loads(path.read_text())["request"] | change
    path.write_text(json.dumps({"request": request}))
    assert said in ttbr(command, path).refusal
    missing = {k: v for k, v in request.items() if v is not None}
    path.write_text(json.dumps({"request": missing}))
    assert said in ttbr(command, path).refusal


REGIONS = """
page = 0x10000
[[region]]
name = "ram"
va = 0x40000000
pa = 0x4000_4000_0000
size = 0x80000000
[[region]]
name = "odd"
va = 0x1_2340_0000
pa = 0x7654_0000
size = 0x30000
access = "r"
"""
WIDE = """
page = 0x10000
[[region]]
name = "far"
va = 0x8_0000_0001_0000
pa = 0xf_0000_0001_0000
size = 0x40000
[[region]]
name = "high"
va = 0x8_0001_0000_0000
pa = 0xf_0001_0000_0000
size = 0x40000000
"""
FORMS: dict[str, tuple[Any, ...]] = {
    "concatenated": (REGIONS, "--input-bits", 40),
    "concatenated 16": (REGIONS, "--input-bits", 43),
    "16K": (REGIONS, "--granule", "16K", "--input-bits", 40),
    "64K": (REGIONS, "--granule", "64K", "--input-bits", 44),
    "start 0": (REGIONS, "--input-bits", 40, "--start", 0),
    "64K LPA": (WIDE, "--granule", "64K", "--lpa", "--input-bits", 52),
    "4K LPA2": (WIDE, "--ds", "--input-bits", 52),
    "16K LPA2": (WIDE, "--granule", "16K", "--ds", "--input-bits", 52),
}


def mapped(text: str) -> set[tuple[int, int]]:
    """(va, pa) of every 64K of regions, read without this package's parser."""
    import tomllib

    return {
        (row["va"] + at, row["pa"] + at)
        for row in tomllib.loads(text)["region"]
        for at in range(0, row["size"], 0x10000)
    }


@pytest.mark.parametrize("regime", ["stage2", "el1", "el2"])
@pytest.mark.parametrize("form", FORMS)
def test_regions_are_built_and_dumped_back(tmp_path: Path, regime: str, form: str) -> None:
    text, *words = FORMS[form]
    if form == "start 0" and regime != "stage2":
        words += ["--regime", regime]
        (tmp_path / "r.toml").write_text(text)
        said = ttbr("build", tmp_path / "r.toml", "--base", "0x50000000", *words).refusal
        assert "start: only stage 2 chooses its start level" in said
        return
    (tmp_path / "r.toml").write_text(text)
    words += ["--regime", regime, "--base", "0x50000000", "-o", tmp_path / "t.bin", "--json"]
    built = ttbr("build", tmp_path / "r.toml", *words)
    assert built.status == 0, built.err
    registers = built.json["registers"]
    given = [f"--{name.lower().replace('_', '-')}={value}" for name, value in registers.items()]
    dump = ["dump", tmp_path / "t.bin", "--base", built.json["first"], "--regime", regime, *given]
    halves = ttbr(*dump, "--json")
    assert halves.status == 0, halves.err
    found = {
        (int(m["va"], 16) + at, int(m["pa"], 16) + at)
        for half in halves.json
        for m in half.get("mappings", ())
        for at in range(0, m["size"], 0x10000)
    }
    assert found == mapped(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--granule", "64K", "--lpa", "--input-bits", 52), "needs FEAT_LVA, FEAT_LPA"),
        (("--ds", "--input-bits", 52), "needs FEAT_LPA2"),
        (("--input-bits", 24, "--regime", "el2"), "needs FEAT_TTST"),
        (("--input-bits", 25, "--regime", "stage2", "--start", 3), "needs FEAT_TTST"),
        (("--input-bits", 48, "--regime", "el2vhe"), "needs FEAT_VHE"),
        (("--input-bits", 25), ""),
    ],
)
def test_needed_features_are_said(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text("page = 0x10000\n[[region]]\nva = 0x10000\npa = 0x10000\nsize = 0x10000\n")
    text = ttbr("build", path, "--estimate", *words).out
    assert ([line for line in text.splitlines() if line.startswith("needs")] or [""])[0] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no [[region]] in it"),
        ("page = 4096\n", "no [[region]] in it"),
        ("[[region]]\nva = -4096\npa = 0\nsize = 0x1000\n", "va -0x1000 is negative"),
    ],
)
def test_regions_that_say_nothing(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    assert said in ttbr("build", path, "--base", "0").refusal


def test_the_budget_of_regions_is_checked_with_the_estimate(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[[region]]\nva = 0\npa = 0\nsize = 0x1000\n")
    said = ttbr("build", path, "--estimate", "--budget", 3).refusal
    assert "needs 4 tables (1 at level 0, 1 at level 1, 1 at level 2, 1 at level 3)" in said
    assert ttbr("build", path, "--estimate", "--budget", 4).status == 0


def test_one_table_is_one(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("page = 0x1000\n[[region]]\nva = 0\npa = 0\nsize = 0x40000000\n")
    words = ("--input-bits", 32, "--base", "0x1000")
    lines = ttbr("build", path, *words).out.splitlines()
    assert lines[0] == "1 table (4K): 1 at level 1"
    assert "1 page (" in lines[1]


def test_parts_are_as_many_as_roots(tmp_path: Path) -> None:
    chosen = planned(saved(tmp_path, "dedicated-root", *SEATTLE))
    assert [part.name for part in parts_of(chosen)] == [root.name for root in chosen.roots]


def test_runs_of_both_roots_differ(tmp_path: Path) -> None:
    """The two roots of `separate` are different trees."""
    path = saved(tmp_path, "separate", *XGENE)
    out = tmp_path / "tables.o"
    ttbr("build", path, "-o", out)
    memory, symbols = elf_of(out)
    found = []
    for root in ("boot", "run_time"):
        registers = {"TTBR0_EL2": symbols[f"tables_root_{root}"], "TCR_EL2": symbols["tables_tcr"]}
        p = regime_of(registers | {"SCTLR_EL2": 1}, EL2).lower
        assert p is not None
        found.append([r.va for r in runs(memory, p) if isinstance(r, Run)])  # type: ignore[arg-type]
    assert found[0]
    assert found[0] != found[1]


def test_standard_input(tmp_path: Path) -> None:
    regions = "[[region]]\nva = 0\npa = 0\nsize = 0x40000000\n"
    words = ("--base", "0x1000", "--input-bits", 32)
    (path := tmp_path / "r.toml").write_text(regions)
    found = process("build", "-", *words, input=regions)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == ttbr("build", path, *words).out
    text = saved(tmp_path, "merged-root", *SEATTLE).read_text()
    found = process("build", "-", "--estimate", input=text)
    assert found.stdout.startswith("HYP: 15 tables")


@pytest.mark.parametrize("command", ["build", "verify"])
@pytest.mark.parametrize(
    ("text", "why"),
    [("{}", "not a plan: `ttbr plan --json` writes one"), ("\xff", "not a text file")],
)
def test_bad_standard_input_is_named(command: str, text: str, why: str) -> None:
    found = process(command, "-", input=text, encoding="latin-1")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"ttbr {command}: standard input: {why}\n"


REGION = """
[[region]]
va = 0x4000_0000
pa = 0x4000_0000
size = 0x4000_0000
largest = 0x1000
"""


def test_a_failed_build_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (regions := tmp_path / "r.toml").write_text(REGION)
    (out := tmp_path / "out.bin").write_text("old")
    words = ["build", regions, "--base", "0x8000_0000", "-o", out]
    for error, status in ((OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)):

        def fails(tables: object, file: Any, error: BaseException = error) -> None:
            file.write(b"half")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("ttbr.build.write_binary", fails)
            assert ttbr(*words).status == status
        assert out.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.bin", "r.toml"]
    (link := tmp_path / "link.bin").symlink_to(out)
    assert ttbr(*words[:-1], link).status == 0
    assert link.is_symlink()
    assert out.stat().st_size == 515 * 4096
    assert ttbr(*words[:-1], "/dev/null", "--format", "asm").status == 0


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    (regions := tmp_path / "r.toml").write_text(REGION)
    result = ttbr("build", regions, "--base", "0", "-o", regions, "--format", "bin")
    assert "is the input" in result.refusal
    assert regions.read_text() == REGION


def test_stage_2_is_of_a_64_bit_guest(tmp_path: Path) -> None:
    """HCR_EL2.RW=1: the registers are those of tables that ttbr itself reads."""
    (regions := tmp_path / "r.toml").write_text(REGION)
    out = tmp_path / "out.bin"
    words = ["--base", "0x8000_0000", "--regime", "stage2"]
    built = ttbr("build", regions, *words, "--input-bits", "40", "-o", out, "--json").json
    assert built["registers"]["HCR_EL2"] == hex(1 << 31 | 1)
