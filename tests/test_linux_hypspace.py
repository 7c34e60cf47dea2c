"""Private mappings, vectors and pKVM's regions."""

import pytest

from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import configure
from ttbr.linux.hyp import hyp_layout
from ttbr.linux.hypspace import VectorKind, pkvm_space, private_space, vector_address

SEATTLE = [(0x8000000000, 16 << 30)]
LOW = [(0x80000000, 2 << 30)]


def test_private_room_is_what_is_below_the_id_map() -> None:
    config = configure("4.18", "4K", 39, 0x8000080000, idmap_text=0x8000A26000)
    space = private_space(config, hyp_layout(config, SEATTLE))
    assert space is not None
    assert (space.top, space.floor, space.room) == (0x8000A26000, 0x8000000000, 0xA26000)
    first = space.allocate(space.top, 0x1001, 4096)
    assert first == 0x8000A24000
    with pytest.raises(InvalidError, match="ENOMEM"):
        space.allocate(first, 0x1000000, 4096)


def test_no_private_range_before_4_17() -> None:
    config = configure("4.16", "4K", 39, 0x8000080000)
    assert private_space(config, hyp_layout(config, SEATTLE)) is None


@pytest.mark.parametrize(
    ("image", "memory", "io"),
    [(0x80080000, LOW, 1 << 46), (0x8000080000, SEATTLE, 1 << 46)],
)
def test_pkvm_takes_the_free_quarter(image: int, memory: list[tuple[int, int]], io: int) -> None:
    config = configure("6.12", "4K", 39, image)
    space = pkvm_space(config, hyp_layout(config, memory))
    assert (space.io, space.vmemmap, space.end) == (io, io | 1 << 45, io + (1 << 46))
    assert space.linear is None


def test_pkvm_may_meet_the_linear_map_when_extended() -> None:
    # With 40 bits the ID map has bit 39, so the quarter is [2^38, 2^39): the linear map's half.
    config = configure("5.15", "4K", 39, 0x8000080000)
    space = pkvm_space(config, hyp_layout(config, SEATTLE))
    assert space.io == 1 << 38
    assert space.linear == (0x4000000000, 0x4400000000)


def test_pkvm_needs_nvhe_and_5_13() -> None:
    for release, vhe in (("5.12", False), ("6.1", True)):
        config = configure(release, "4K", 48, 0x80080000, vhe=vhe)
        with pytest.raises(UnsupportedError, match="pKVM"):
            pkvm_space(config, hyp_layout(config, LOW))


def test_vectors() -> None:
    config = configure("6.1", "4K", 39, 0x80080000)
    hyp = hyp_layout(config, LOW)
    base = 0xFFFFFF8000123000
    assert vector_address(VectorKind.DIRECT, hyp, base) == hyp.hyp_va(base)
    assert vector_address(VectorKind.SPECTRE_DIRECT, hyp, base, 2) == hyp.hyp_va(base) + 0x1000
    assert vector_address(VectorKind.INDIRECT, hyp, base, 1, 0x80070000) == 0x80070800
    with pytest.raises(InvalidError, match="private"):
        vector_address(VectorKind.INDIRECT, hyp, base)
