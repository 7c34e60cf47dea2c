"""The built-in catalogue: complete, sourced, and in agreement with published numbers."""

import subprocess
from pathlib import Path

import pytest

from ttbr.boards import load, names
from ttbr.boards.board import Board

CATALOGUE = [load(name) for name in names()]


@pytest.mark.parametrize("board", CATALOGUE, ids=lambda board: board.name)
def test_entry(board: Board) -> None:
    assert load(board.name) is board
    assert board.title
    assert board.source
    assert board.confidence in ("high", "medium", "low")
    assert board.name == board.name.lower()
    for window in board.memory:
        assert window.start % 0x1000 == 0
        assert window.size % 0x1000 == 0
        # All of these CPUs have at most 48 bits of physical addresses.
        assert window.last < 1 << 48
    for device in board.mmio:
        assert not any(
            device.start <= ram.last and ram.start <= device.last for ram in board.memory
        ), device


def test_names_are_those_of_the_platforms() -> None:
    assert {"seattle", "xgene1", "lx2160a", "altra-ava", "altra-2s", "d06"} < set(names())
    assert {"qemu-virt", "sbsa-ref", "apple-m1-max", "thunderx", "juno"} < set(names())
    assert len(names()) == len(set(names())) == 22


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        # fls(first ^ last) of DRAM is the tag bit of kvm_compute_layout: the values that kernels
        # printed or that follow for these boards (Altra and D06 with 48-bit kernels).
        ("seattle", 34),
        ("xgene1", 34),
        ("lx2160a", 38),
        ("armada8040", 34),
        ("altra-2s", 47),
        ("d06", 46),
        ("sbsa-ref", 32),
    ],
)
def test_span_of_dram(name: str, bits: int) -> None:
    memory = load(name).memory
    assert (memory[0].start ^ memory[-1].last).bit_length() == bits


def test_first_use_case() -> None:
    seattle = load("seattle")
    assert seattle.memory[0].start == 1 << 39
    assert load("sbsa-ref").memory[0].start == load("apple-m1-max").memory[0].start == 1 << 40


def test_qemu_virt_is_as_qemu_says(tmp_path: Path) -> None:
    blob = tmp_path / "virt.dtb"
    try:
        subprocess.run(
            [
                *("qemu-system-aarch64", "-machine", f"virt,gic-version=3,dumpdtb={blob}"),
                *("-cpu", "max", "-m", "1G", "-display", "none"),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except FileNotFoundError:
        pytest.skip("no QEMU: apt-get install qemu-system-arm")
    real, ours = load(blob), load("qemu-virt")
    assert [(w.start, w.size) for w in ours.memory] == [(w.start, w.size) for w in real.memory]
    devices = {(w.start, w.size) for w in real.mmio if not w.name.startswith("virtio")}
    assert {(w.start, w.size) for w in ours.mmio} == devices
