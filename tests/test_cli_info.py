"""``ttbr info``: what an image holds."""

from pathlib import Path

import pytest

from commands import ttbr
from trees import (
    AF,
    PAGE,
    Tree,
    el1_registers,
    elf_core,
    hcr_el2,
    stage2_registers,
    tcr_el1,
    tcr_el2,
    tree_core,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tree = Tree()
    root = tree.chain((0, 0, 1), 0x4000_0000 | AF | PAGE)
    registers = el1_registers(root, 0x7000_0000, T0SZ=25, T1SZ=16)
    registers |= {"TTBR0_EL2": root, "TCR_EL2": tcr_el2(TG0=3), "HCR_EL2": hcr_el2()}
    file = tmp_path / "core"
    file.write_bytes(tree_core(tree, registers))
    return file


def test_text(path: Path) -> None:
    result = ttbr("info", path)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{path}: ELF core, 12K in 3 segments"
    assert "PSTATE.EL=1, current regime EL1&0" in result.out
    assert "EL1&0: stage 1 on" in lines
    assert "TTBR0_EL1: 4K granule, 39-bit" in result.out
    assert "root 0x70000000" in result.out
    assert "root not in the image" in result.out
    assert "TCR_EL2.TG0=0b11 is reserved" in result.out


def test_json(path: Path) -> None:
    body = ttbr("info", path, "--json").json
    assert (body["kind"], body["bytes"], body["el"]) == ("ELF core", 12288, 1)
    assert [s["address"] for s in body["segments"]] == ["0x80000000", "0x80001000", "0x80002000"]
    assert body["registers"]["TCR_EL2"] == hex(tcr_el2(TG0=3))
    text = ttbr("info", path).out
    for lines in body["regimes"].values():
        assert "\n".join(lines) in text


def test_host_regime_and_stage2(path: Path) -> None:
    tree = Tree()
    registers = el1_registers(0) | stage2_registers(0x1_2340_0000, {"E2H": 1})
    registers |= {"TTBR0_EL2": 0, "TTBR1_EL2": 0, "TCR_EL2": tcr_el1()}
    path.write_bytes(tree_core(tree, registers, 0x9))
    out = ttbr("info", path).out
    assert "current regime EL2&0" in out
    assert "stage 2: VTTBR_EL2: 4K granule, 40-bit" in out
    assert "root 0x123400000 (level 1, 1024 entries, 8K)" in out


def test_what_is_not_modelled_is_said(path: Path) -> None:
    result = ttbr("info", path, "--tcr2-el1", "0x20")
    assert result.status == 0
    assert "EL1&0: TCR2_EL1.D128=1: 128-bit descriptors (FEAT_D128) is not modelled" in result.out


def test_image_without_registers(path: Path) -> None:
    path.write_bytes(elf_core([(0x1000 * i, bytes(64)) for i in range(20)]))
    result = ttbr("info", path)
    assert result.status == 0
    assert "no registers in the image" in result.out
    assert "... 8 more" in result.out
    assert ttbr("info", path, "--json").json["registers"] == {}


def test_raw_image(path: Path) -> None:
    path.write_bytes(bytes(4096))
    out = ttbr("info", path, "--base", "0x40000000").out
    assert "raw, 4K in 1 segments" in out
    assert "0x40000000-0x40001000" in out


def test_inconsistent_stage2_is_said(path: Path) -> None:
    tree = Tree()
    registers = el1_registers(0) | stage2_registers(0, SL0=0, T0SZ=16)
    path.write_bytes(tree_core(tree, registers))
    assert "start level 2 does not fit T0SZ=16" in ttbr("info", path).out


def test_without_ds_the_output_of_4k_ends_at_48_bits(tmp_path: Path) -> None:
    (file := tmp_path / "memory").write_bytes(bytes(4096))
    words = [file, "--base", "0", "--ttbr0-el2", "0", "--tcr-el2", "0x80863510"]
    assert "output up to 48 bits" in ttbr("dump", *words).out
    words[-1] = "0x180863510"
    assert "output up to 52 bits" in ttbr("dump", *words).out
