"""The layout of kernels that ran: symbols, registers and ptdump markers of the captures."""

import re
import struct
from collections.abc import Iterator

import pytest

from linux_capture import KERNELS, Capture, every, load, nvhe
from ttbr import boards
from ttbr.linux.hyp import hyp_layout, intersects, linear_lsb, random_tag_bits
from ttbr.linux.hypspace import private_space
from ttbr.linux.idmap import id_map
from ttbr.linux.layout import kernel_layout, linear_map

ON_IDMAP = {"02", "03", "04", "05", "06", "07", "08", "09", "10"}


@pytest.fixture(scope="module")
def capture(request: pytest.FixtureRequest) -> Capture:
    return load(request.param)


@every
def test_t0sz_of_el1(capture: Capture) -> None:
    found = id_map(capture.config)
    assert found.extension is KERNELS[capture.path.name][4]
    for moment in ON_IDMAP & capture.moments.keys():
        assert capture.register(moment, "TCR_EL1") & 63 == found.t0sz, moment
    # Afterwards the ID map is uninstalled and T0SZ is the kernel's own.
    register = "TCR_EL2" if capture.config.vhe else "TCR_EL1"
    assert capture.register("11", register) & 63 == 64 - capture.config.va_bits_actual


@every
def test_the_image_is_at_kimage_vaddr(capture: Capture) -> None:
    layout = kernel_layout(capture.config)
    assert capture.symbols["_text"] == layout.kimage + capture.config.text_offset


@every
def test_reserved_idmap_pages(capture: Capture) -> None:
    if "init_idmap_pg_end" not in capture.symbols:
        pytest.skip("the capture does not list the end of the area")
    size = capture.symbols["init_idmap_pg_end"] - capture.symbols["init_idmap_pg_dir"]
    extra = 3 * 4096 if str(capture.config.release) == "6.12" else 0  # stable 6.12.y adds them
    assert id_map(capture.config).area == size - extra


@every
def test_ptdump_markers(capture: Capture) -> None:
    listing = capture.path / "kernel_page_tables.txt"
    if not listing.exists():
        pytest.skip("that kernel has no ptdump")
    layout = kernel_layout(capture.config)
    assert layout.pci_io is not None
    markers = {
        "Linear Mapping start": layout.linear[0],
        "Linear Mapping end": layout.linear[1],
        "Modules start": layout.modules[0],
        "Modules end": layout.modules[1],
        "vmalloc() area": layout.vmalloc[0],
        "vmalloc() end": layout.vmalloc[1],
        "Fixmap end": layout.fixaddr_top,
        "PCI I/O start": layout.pci_io[0],
        "PCI I/O end": layout.pci_io[1],
        "vmemmap start": layout.vmemmap[0],
        "vmemmap end": layout.vmemmap[1],
    }
    seen = dict(_marker_bounds(listing.read_text()))
    for name, address in markers.items():
        after, at = seen[name]
        assert after < address <= at, name


def _marker_bounds(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each marker with the addresses between which it lies, the second included.

    After each range ptdump prints one marker at most: the next one, if its address is reached.
    """
    after, at, printed = -1, -1, False
    for line in text.splitlines():
        if marker := re.match(r"---\[ (.*) \]---", line):
            yield marker[1], (after, at if at >= 0 else 1 << 64)
            printed = True
        elif span := re.match(r"0x[0-9a-f]{16}-0x([0-9a-f]{16}) ", line):
            # A marker that had to wait for its turn may lie before the last range too.
            after, at = after if printed and after >= 0 else at, int(span[1], 16) or 1 << 64
            printed = False


@pytest.mark.parametrize("capture", ["deb612-4k52lpa2-max-nvhe"], indirect=True)
def test_kcore_segments(capture: Capture) -> None:
    header = bytes.fromhex((capture.path / "kcore_hdr.hex").read_text())
    (count,) = struct.unpack_from("<H", header, 56)
    rows = [struct.unpack_from("<4xI4Q", header, 64 + 56 * row) for row in range(count)]
    found = {(va, va + size) for _, _, va, _, size in rows if va}
    layout = kernel_layout(capture.config)
    assert {layout.modules, layout.vmalloc} <= found
    assert layout.vmemmap[0] in {start for start, _ in found}
    linear = linear_map(capture.config, capture.board)
    assert (linear.first, linear.high_memory) in found


@nvhe
def test_t0sz_of_el2(capture: Capture) -> None:
    hyp = hyp_layout(capture.config, capture.board)
    for moment in ("21", "22", "40", "50"):
        assert capture.register(moment, "TCR_EL2") & 63 == hyp.t0sz, moment
    assert not intersects(hyp)


@nvhe
def test_hyp_address_of_the_vectors(capture: Capture) -> None:
    linear = linear_map(capture.config, capture.board)
    vbar = capture.register("40", "VBAR_EL2")
    vector = linear.to_virt(capture.physical("__kvm_nvhe___kvm_hyp_host_vector"))
    plain = hyp_layout(capture.config, capture.board)
    random = random_tag_bits(capture.config, plain.va_bits, linear_lsb(linear))
    # Outside of the random bits the address is what the formula says: low bits and half.
    assert plain.hyp_va(vector) & ~random == vbar & ~random
    assert hyp_layout(capture.config, capture.board, rand=vbar).hyp_va(vector) == vbar
    assert vbar >> (plain.va_bits - 1) == 1 ^ (plain.idmap[0] >> (plain.va_bits - 1)) & 1


@nvhe
def test_hyp_code_starts_at_the_idmap(capture: Capture) -> None:
    hyp = hyp_layout(capture.config, capture.board)
    assert hyp.idmap[0] == capture.physical("__hyp_idmap_text_start")
    assert hyp.idmap[0] <= int(capture.moments["22"]["core"]["pc"], 16) < hyp.idmap[1]


@nvhe
def test_guest_vectors_are_hyp_or_private(capture: Capture) -> None:
    hyp = hyp_layout(capture.config, capture.board, rand=capture.register("40", "VBAR_EL2"))
    space = private_space(capture.config, hyp)
    vbar = capture.register("50", "VBAR_EL2")
    assert space is not None
    assert space.floor <= vbar < space.top or hyp.first <= vbar <= hyp.last


@nvhe
def test_physvirt_offset(capture: Capture) -> None:
    rand = capture.register("40", "VBAR_EL2")
    hyp = hyp_layout(capture.config, capture.board, rand=rand)
    offset = hyp.physvirt_offset(linear_map(capture.config, capture.board))
    vector = capture.physical("__kvm_nvhe___kvm_hyp_host_vector")
    assert (rand + offset) & ((1 << 64) - 1) == vector


@every
def test_device_tree_and_iomem_agree(capture: Capture) -> None:
    tree = capture.path / "guest.dtb"
    if not tree.exists():
        pytest.skip("no device tree in the capture")
    layouts = {hyp_layout(capture.config, board) for board in (boards.load(tree), capture.board)}
    assert len(layouts) == 1


@pytest.mark.parametrize("capture", ["deb61-max-vhe"], indirect=True)
def test_vhe_runs_at_kernel_addresses(capture: Capture) -> None:
    hyp = hyp_layout(capture.config, capture.board)
    assert hyp.hyp_va(capture.register("40", "VBAR_EL2")) == capture.symbols["_stext"] + 0x800
