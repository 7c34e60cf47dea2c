"""Every writer's output goes through the tool that reads it, and is walked to the same mappings."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ttbr.arch.regime import EL1, EL2, WalkParams, regime_of
from ttbr.build import (
    DEVICE,
    HYP_TEXT,
    KERNEL_DATA,
    KERNEL_TEXT,
    Arena,
    Tables,
    assembly,
    build,
    c_header,
    layout,
    rust_source,
    table_params,
    write_binary,
    write_elf,
)
from ttbr.errors import InvalidError
from ttbr.memory import SegmentMemory, SparseMemory
from ttbr.regions import Region, RegionMap
from ttbr.walk import Run, runs

CROSS = "aarch64-linux-gnu-"
IN_CI = bool(os.environ.get("CI"))
needs_gnu = pytest.mark.skipif(
    shutil.which(CROSS + "gcc") is None and not IN_CI,
    reason="no cross compiler: apt-get install gcc-aarch64-linux-gnu",
)
needs_rust = pytest.mark.skipif(
    shutil.which("rustc") is None, reason="no rustc: apt-get install rustc"
)

REGIONS = RegionMap(
    [
        Region(0x8000_0000, 0x80_8000_0000, 0x60_0000, KERNEL_TEXT, "text"),  # type: ignore[arg-type]
        Region(0x8060_0000, 0x80_8060_0000, 0x1_3000, KERNEL_DATA, "data"),  # type: ignore[arg-type]
        Region(0x30_0000_0000, 0x900_0000, 0x1000, DEVICE, "uart"),  # type: ignore[arg-type]
    ]
)


@pytest.fixture
def tables() -> Tables:
    """Tables in two windows, so that there are two sections; the root is in the second."""
    arena = Arena([(0x4008_0000, 0x3000), (0x4010_0000, 0x10_0000)])
    return build(REGIONS, table_params(EL1, "4K", 48), arena=arena, root=0x4020_0000)


def mappings(memory: SegmentMemory, p: WalkParams) -> list[tuple[int, int, int, int]]:
    found = list(runs(memory, p))
    assert found
    assert all(isinstance(run, Run) for run in found)
    return [(r.va, r.size, r.output, r.leaf.descriptor) for r in found if isinstance(r, Run)]


def run_tool(*words: str, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def linked(path: Path, tables: Tables, *objects: str) -> tuple[SegmentMemory, dict[str, int]]:
    """The objects linked with each section at its address: memory and symbols of the result."""
    places = [f"--section-start={name}={address:#x}" for name, address in pieces(tables)]
    run_tool(CROSS + "ld", "-e", "0", "-o", "out.elf", *places, *objects, cwd=path)
    found = {}
    for name, address in pieces(tables):
        run_tool(CROSS + "objcopy", "-O", "binary", "-j", name, "out.elf", "out.bin", cwd=path)
        found[address] = (path / "out.bin").read_bytes()
    rows = [line.split() for line in run_tool(CROSS + "nm", "out.elf", cwd=path).splitlines()]
    return SparseMemory(found), {row[2]: int(row[0], 16) for row in rows if len(row) == 3}


def pieces(tables: Tables) -> list[tuple[str, int]]:
    from ttbr.build.writers import sections

    return [(section.name, section.address) for section in sections(tables, "boot")]


def check(memory: SegmentMemory, symbols: dict[str, int], tables: Tables) -> None:
    assert symbols["boot_root"] == tables.root
    names = [name for name in symbols if name.startswith("boot_") and "_EL" in name]
    registers = {name.removeprefix("boot_"): symbols[name] for name in names}
    assert registers == tables.registers
    p = regime_of(registers, EL1, tables.features).lower
    assert isinstance(p, WalkParams)
    assert mappings(memory, p) == mappings(tables.memory(), tables.params)


def test_binary(tables: Tables) -> None:
    file = io.BytesIO()
    base = write_binary(tables, file)
    assert base == 0x4008_0000
    memory = SparseMemory({base: file.getvalue()})
    assert mappings(memory, tables.params) == mappings(tables.memory(), tables.params)


def test_binary_of_a_layout_is_the_same(tables: Tables) -> None:
    arena = Arena([(0x4008_0000, 0x3000), (0x4010_0000, 0x10_0000)])
    placed = layout(REGIONS, table_params(EL1, "4K", 48), arena=arena, root=0x4020_0000)
    streamed, whole = io.BytesIO(), io.BytesIO()
    assert write_binary(placed, streamed) == write_binary(tables, whole)
    assert streamed.getvalue() == whole.getvalue()


def test_binary_refuses_far_windows() -> None:
    arena = Arena([(0x4000_0000, 0x2000), (1 << 39, 0x10_0000)])
    far = build(REGIONS, table_params(EL1, "4K", 48), arena=arena)
    with pytest.raises(InvalidError, match="nothing is between 0x40002000 and 0x8000000000"):
        write_binary(far, io.BytesIO())


def test_name_must_be_an_identifier(tables: Tables) -> None:
    for writer in (assembly, c_header, rust_source):
        with pytest.raises(InvalidError, match="name '2x'"):
            writer(tables, "2x")


@needs_gnu
def test_elf_object(tables: Tables, tmp_path: Path) -> None:
    with open(tmp_path / "boot.o", "wb") as file:
        write_elf(tables, file, "boot")
    listing = run_tool(CROSS + "readelf", "-W", "-a", "boot.o", cwd=tmp_path)
    assert "Warning" not in listing
    assert "AArch64" in listing
    check(*linked(tmp_path, tables, "boot.o"), tables)


@needs_gnu
def test_assembly(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "boot.S").write_text(assembly(tables, "boot"))
    run_tool(CROSS + "as", "--fatal-warnings", "-o", "boot.o", "boot.S", cwd=tmp_path)
    check(*linked(tmp_path, tables, "boot.o"), tables)


@needs_gnu
def test_c_header(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "boot.h").write_text(c_header(tables, "boot"))
    names = list(tables.registers)
    values = "".join(f"uint64_t boot_{name} = BOOT_{name};\n" for name in names)
    (tmp_path / "boot.c").write_text(
        f'#include "boot.h"\n{values}uint64_t boot_root = BOOT_ROOT;\n'
    )
    flags = ["-Wall", "-Wextra", "-Werror", "-std=c11", "-ffreestanding", "-c"]
    run_tool(CROSS + "gcc", *flags, "-o", "boot.o", "boot.c", cwd=tmp_path)
    memory, _ = linked(tmp_path, tables, "boot.o")
    run_tool(CROSS + "objcopy", "-O", "binary", "-j", ".data", "boot.o", "data.bin", cwd=tmp_path)
    data = (tmp_path / "data.bin").read_bytes()
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    symbols = {f"boot_{name}": words[at] for at, name in enumerate(names)}
    check(memory, symbols | {"boot_root": words[len(names)]}, tables)


@needs_rust
def test_rust(tables: Tables, tmp_path: Path) -> None:
    (tmp_path / "boot.rs").write_text(rust_source(tables, "boot"))
    labels = [f"BOOT_{address:X}" for _, address in pieces(tables)]
    dumps = "".join(
        f'for d in unsafe {{ (*std::ptr::addr_of!(boot::{label})).0 }} {{ println!("{{d}}"); }}\n'
        for label in labels
    )
    registers = "".join(f'println!("{{}}", boot::{name});\n' for name in tables.registers)
    main = f'mod boot;\nfn main() {{\nprintln!("{{}}", boot::ROOT);\n{registers}{dumps}}}\n'
    (tmp_path / "main.rs").write_text(main)
    run_tool("rustc", "--edition", "2021", "-D", "warnings", "main.rs", cwd=tmp_path)
    numbers = [int(line) for line in run_tool("./main", cwd=tmp_path).splitlines()]
    names = ["root", *tables.registers]
    symbols = {f"boot_{name}": numbers.pop(0) for name in names}
    pages = {}
    for name, address in pieces(tables):
        size = next(s.size for s in sections_of(tables) if s.name == name) // 8
        pages[address] = b"".join(d.to_bytes(8, "little") for d in numbers[:size])
        del numbers[:size]
    assert not numbers
    check(SparseMemory(pages), symbols, tables)


def sections_of(tables: Tables):  # type: ignore[no-untyped-def]
    from ttbr.build.writers import sections

    return sections(tables, "boot")


def test_hyp_registers_go_along() -> None:
    regions = RegionMap([Region(0x1000, 0x8000_1000, 0x1000, HYP_TEXT)])  # type: ignore[arg-type]
    text = assembly(build(regions, table_params(EL2, "4K", 39), base=0x9000_0000), "hyp")
    assert "\t.set hyp_TTBR0_EL2, 0x90000000\n" in text
    assert "hyp_TCR_EL2" in text
    assert "hyp_SCTLR_EL2" in text
