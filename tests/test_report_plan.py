"""The explained plan: what it says for people, and its plain values."""

from typing import Any

import pytest

from ttbr.arch.geometry import PA
from ttbr.boards import Board, Window, load
from ttbr.errors import UnsupportedError
from ttbr.linux.config import configure, default_image
from ttbr.report.plan import Decision, comparison, decide, explain, plain

GIB = 1 << 30


def decided(board: str, release: str, image: int, page: str = "4K", bits: int = 39) -> Decision:
    return decide(load(board), configure(release, page, bits, image))


def test_a_finding_is_not_a_kernel_that_does_not_come_up() -> None:
    found = decided("qemu-virt", "6.12", 0x40200000)
    assert [defect.bug.name for defect in found.defects] == ["hyp-layout-width"]
    assert found.comes_up
    assert not found.works
    body: Any = plain(found, False)
    assert body["works"] is True
    lost = decided("lx2160a", "5.4", 0x80080000)
    assert not lost.comes_up


def test_defects_of_memory_that_is_dropped() -> None:
    for board in ("d06", "thunderx", "altra-2s"):
        ram = [(window.start, window.size) for window in load(board).ram]
        found = decided(board, "4.4", default_image(ram, "4.4", "4K"))
        kept = found.linear.ram[-1][1]
        assert kept < ram[-1][0] + ram[-1][1]
        for defect in found.defects:
            assert f"memory up to {kept - 1:#x}" in defect.sentence


def test_an_early_image_must_be_at_its_place() -> None:
    with pytest.raises(UnsupportedError, match="must start 0x80000 above"):
        decided("seattle", "4.1", 0x8000090000)


def test_16k_before_kvm_has_an_id_map() -> None:
    found = decided("seattle", "4.4", 0x8000080000, "16K", 36)
    text = explain(found)
    assert "T0SZ 24 (40 bits) instead of 28" in text
    assert "HYP       none: KVM with 16K pages: since Linux 4.7, not in 4.4" in text
    body: Any = plain(found, True)
    assert body["hyp"] == {"none": "KVM with 16K pages: since Linux 4.7, not in 4.4"}
    assert found.comes_up


def test_without_kvm_there_is_no_strategy_unless_asked_for() -> None:
    config = configure("3.10", "64K", 42, 0x40080000)
    board = load("qemu-virt")
    lines = explain(decide(board, config)).splitlines()
    assert "strategy  none: without KVM nothing is mapped at EL2" in lines
    assert not any("HYP text" in line for line in lines)
    assert "HYP text" in explain(decide(board, config, "separate"))


def test_always_48_does_not_deny_52_bits() -> None:
    config = configure("6.12", "4K", 52, 0x40200000, pa_bits=52, va52=True)
    text = explain(decide(load("qemu-virt"), config))
    assert "HYP tables always have 48 bits, or the 52 of VA_BITS, with 48 for the ID map" in text
    assert "HYP: 52 bits" in text


def test_vhe_compared() -> None:
    config = configure("6.1", "4K", 48, 0x8000000000, vhe=True)
    lines = comparison(load("seattle"), config).splitlines()
    assert "vhe             yes  no tables of its own, 4 levels at run time, T0SZ 16" in lines
    assert sum(line.endswith("no   the kernel runs at EL2") for line in lines) == 14
    body: Any = plain(decide(load("seattle"), config), True)
    assert [p["applicable"] for p in body["strategies"]].count(True) == 1
    assert "hyp" not in body


def test_no_room_is_said() -> None:
    config = configure("6.1", "4K", 39, 0x8000000000, idmap_text=0x8000000000)
    text = explain(decide(load("seattle"), config))
    assert "0B for private mappings (the first one fails with -ENOMEM)" in text


def test_entries_and_slots() -> None:
    assert "slot 1 of the root" in explain(decided("seattle", "4.4", 0x8000080000))
    xgene = decided("xgene1", "4.4", 0x4000080000)
    assert "entry 256 of the root" in explain(xgene)
    body: Any = plain(xgene, False)
    assert body["idmap"]["slot"] == 0


def test_the_layout_is_printed() -> None:
    text = explain(decided("qemu-virt", "5.4", 0x40080000))
    assert "modules 0xffffffc008000000-0xffffffc00fffffff" in text
    assert "vmemmap 0xfffffffeffe00000-0xffffffffffdfffff" in text
    assert "fixmap below 0xfffffffefea00000" in text


def test_sizes_keep_their_units() -> None:
    text = explain(decided("seattle", "5.4", 0x8000080000))
    assert "8M+448K for private mappings" in text


def test_a_sequence_comes_with_its_inputs() -> None:
    body: Any = plain(decided("seattle", "4.4", 0x8000080000), True)
    chosen = body["chosen"]
    assert chosen["inputs"]["x0"] == "boot_ttbr0"
    assert chosen["sequence"][0] == "msr ttbr0_el2, x0"
    skip = next(p for p in body["strategies"] if p["strategy"] == "level-skip-v2")
    assert skip["junk"][0].keys() == {"t0sz", "va", "size", "what", "output"}
    assert body["layout"]["pgdir_shift"] == 30
    assert body["layout"]["idmap_pgdir_shift"] == 39
    assert body["hyp"]["mask"] == hex((1 << 39) - 1)


def test_the_random_bits_of_the_tag() -> None:
    """Section sizes of D06: 46 bits of linear map leave one random bit with 48."""
    board = Board("d06", "D06", (Window(PA(0x40000000), 0x202800000000 - 0x40000000),))
    config = configure("6.1", "4K", 48, 0x41000000, kaslr=True)
    body: Any = plain(decide(board, config), False)
    assert body["hyp"]["tag_lsb"] == 46
    assert body["hyp"]["random_bits"] == hex(1 << 46)
