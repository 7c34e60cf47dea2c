"""Memory types and permissions against the Arm ARM's rules, written here once more."""

import itertools

import pytest

from ttbr.arch.attributes import (
    PR,
    PW,
    PX,
    UR,
    UW,
    UX,
    combine_memory,
    combine_shareability,
    is_device,
    memory_text,
    permission_text,
    reported_shareability,
    stage1_permissions,
    stage2_memory,
    stage2_permissions,
)

NSH, OSH, ISH = 0b00, 0b10, 0b11


@pytest.mark.parametrize(
    ("attr", "text"),
    [
        (0x00, "Device-nGnRnE"),
        (0x04, "Device-nGnRE"),
        (0x08, "Device-nGRE"),
        (0x0C, "Device-GRE"),
        (0x01, "Device-nGnRnE (XS=0)"),
        (0x40, "Normal NC (XS=0)"),
        (0xA0, "Normal WT-RA (XS=0)"),
        (0xF0, "Normal WB Tagged"),
        (0x44, "Normal NC"),
        (0xFF, "Normal WB"),
        (0xBB, "Normal WT-RWA"),
        (0xAA, "Normal WT-RA"),
        (0x77, "Normal WB-transient-RWA"),
        (0x11, "Normal WT-transient-WA"),
        (0xEE, "Normal WB-RA"),
        (0x88, "Normal WT"),
        (0x4F, "Normal inner WB-RWA outer NC"),
        (0xF4, "Normal inner NC outer WB-RWA"),
        (0x02, "reserved (0x02)"),
        (0x0F, "reserved (0x0f)"),
        (0xB0, "reserved (0xb0)"),
        (0x70, "reserved (0x70)"),
    ],
)
def test_mair_encodings(attr: int, text: str) -> None:
    assert memory_text(attr) == text


@pytest.mark.parametrize("attr", range(256))
def test_all_mair_bytes(attr: int) -> None:
    """Device is 0b0000dd0x; other bytes with a zero nibble are UNPREDICTABLE but for three."""
    outer, inner = attr >> 4, attr & 0xF
    device = outer == 0 and inner in (0, 1, 4, 5, 8, 9, 12, 13)
    assert is_device(attr) == device
    reserved = not device and 0 in (outer, inner) and attr not in (0x40, 0xA0, 0xF0)
    assert memory_text(attr).startswith(
        "reserved" if reserved else "Device-" if device else "Normal"
    )


def test_par_reports_device_and_non_cacheable_as_outer_shareable() -> None:
    for sh in (NSH, OSH, ISH):
        assert {reported_shareability(attr, sh) for attr in (0, 4, 8, 0xC, 0x44)} == {OSH}
        assert {reported_shareability(attr, sh) for attr in (0xFF, 0x4F, 0xF4, 0xBB)} == {sh}


# --- Stage 1 permissions -----------------------------------------------------------------------


def arm_stage1(
    ap: int, uxn: int, pxn: int, aptable: int, uxntable: int, pxntable: int, wxn: bool
) -> set[str]:
    """D8.4: AP[2:1] and the limits, for a regime with EL0. "pr" is a privileged read."""
    allowed = {0b00: {"pr", "pw"}, 0b01: {"pr", "pw", "ur", "uw"}, 0b10: {"pr"}, 0b11: {"pr", "ur"}}
    data = set(allowed[ap])
    if aptable & 1:
        data -= {"ur", "uw"}
    if aptable & 2:
        data -= {"pw", "uw"}
    code = {"px", "ux"}
    if uxn or uxntable:
        code -= {"ux"}
    if pxn or pxntable or "uw" in data:
        code -= {"px"}
    if wxn:
        code -= {"px"} if "pw" in data else set()
        code -= {"ux"} if "uw" in data else set()
    return data | code


def arm_stage1_one_level(ap: int, xn: int, aptable: int, xntable: int, wxn: bool) -> set[str]:
    """D8.4 for a regime without EL0: AP[1], APTable[0], PXN and PXNTable have no effect."""
    data = {"pr"} if ap & 2 or aptable & 2 else {"pr", "pw"}
    code = set() if xn or xntable or (wxn and "pw" in data) else {"px"}
    return data | code


NAMES = {"pr": PR, "pw": PW, "px": PX, "ur": UR, "uw": UW, "ux": UX}
STAGE1 = list(itertools.product(range(4), (0, 1), (0, 1), range(4), (0, 1), (0, 1), (False, True)))


def mask(names: set[str]) -> int:
    return sum(NAMES[name] for name in names)


def test_stage1_permissions_of_a_regime_with_el0() -> None:
    assert len(STAGE1) == 512
    for row in STAGE1:
        assert stage1_permissions(*row, el0=True) == mask(arm_stage1(*row)), row


def test_stage1_permissions_of_a_regime_without_el0() -> None:
    for row in STAGE1:
        ap, uxn, _, aptable, uxntable, _, wxn = row
        wanted = mask(arm_stage1_one_level(ap, uxn, aptable, uxntable, wxn))
        assert stage1_permissions(*row, el0=False) == wanted, row


def test_user_writable_is_never_privileged_executable() -> None:
    for row in STAGE1:
        permissions = stage1_permissions(*row, el0=True)
        assert not (permissions & UW and permissions & PX)


# --- Stage 2 permissions -----------------------------------------------------------------------

S2AP = {0: set[str](), 1: {"pr", "ur"}, 2: {"pw", "uw"}, 3: {"pr", "ur", "pw", "uw"}}
XNX = {0: {"px", "ux"}, 1: {"ux"}, 2: set[str](), 3: {"px"}}  # XN[1:0], FEAT_XNX


@pytest.mark.parametrize("s2ap", range(4))
@pytest.mark.parametrize("xn", range(4))
def test_stage2_permissions(s2ap: int, xn: int) -> None:
    assert stage2_permissions(s2ap, xn, True) == mask(S2AP[s2ap] | XNX[xn])
    plain = set() if xn & 2 else {"px", "ux"}  # without FEAT_XNX bit 53 is RES0
    assert stage2_permissions(s2ap, xn, False) == mask(S2AP[s2ap] | plain)


def test_permission_text() -> None:
    assert permission_text(PR | PW | UR) == "rw-/r--"
    assert permission_text(PR | PX, el0=False) == "r-x"
    assert permission_text(0) == "---/---"
    assert permission_text(63) == "rwx/rwx"


# --- Stage 2 memory types, and both stages together --------------------------------------------

# MemAttr[3:2] and [1:0] without FEAT_S2FWB: Normal is outer, inner cacheability.
DEVICES = {0: 0x00, 1: 0x04, 2: 0x08, 3: 0x0C}
CACHE = {1: "NC", 2: "WT", 3: "WB"}


def cacheability(nibble: int) -> tuple[str, bool, int]:
    """(NC, WT or WB; Transient; allocation hints) of a MAIR nibble."""
    if nibble == 4:
        return "NC", False, 0
    return ("WB" if nibble & 4 else "WT"), not nibble & 8, nibble & 3


def nibble_of(policy: str, transient: bool, hints: int) -> int:
    if policy == "NC":
        return 4
    return (0 if transient else 8) | (4 if policy == "WB" else 0) | hints


def arm_combined_nibble(s1: int, s2: str) -> int:
    """S2CombineS1AttrHints: the weaker policy, hints and Transient of stage 1."""
    policy, transient, hints = cacheability(s1)
    weakest = next(p for p in ("NC", "WT", "WB") if p in (policy, s2))
    return nibble_of(weakest, transient, hints)


NORMAL_NIBBLES = list(range(1, 16))
NORMALS = [o << 4 | i for o, i in itertools.product(NORMAL_NIBBLES, NORMAL_NIBBLES)]


def test_stage2_types() -> None:
    assert {m: stage2_memory(m) for m in range(4)} == DEVICES
    for outer, inner in itertools.product(CACHE, CACHE):
        attr = stage2_memory(outer << 2 | inner)
        assert cacheability(attr >> 4)[0] == CACHE[outer]
        assert cacheability(attr & 15)[0] == CACHE[inner]


@pytest.mark.parametrize("memattr", [0b0100, 0b1000, 0b1100])
def test_reserved_stage2_types_have_no_name(memattr: int) -> None:
    assert memory_text(stage2_memory(memattr)).startswith("reserved")


def test_normal_under_normal() -> None:
    for s1, outer, inner in itertools.product(NORMALS, CACHE, CACHE):
        wanted = arm_combined_nibble(s1 >> 4, CACHE[outer]) << 4 | arm_combined_nibble(
            s1 & 15, CACHE[inner]
        )
        assert combine_memory(s1, outer << 2 | inner) == wanted, (hex(s1), outer, inner)


def test_device_wins_and_the_strictest_device() -> None:
    order = [0x00, 0x04, 0x08, 0x0C]
    for s1, memattr in itertools.product(order, range(4)):
        assert combine_memory(s1, memattr) == min(s1, order[memattr], key=order.index)
    for s1, memattr in itertools.product(NORMALS, range(4)):
        assert combine_memory(s1, memattr) == order[memattr]
    for s1, outer, inner in itertools.product(order, CACHE, CACHE):
        assert combine_memory(s1, outer << 2 | inner) == s1


def test_forced_write_back() -> None:
    """HCR_EL2.FWB, MemAttr 0b0110: Write-Back with hints and Transient of a cacheable stage 1."""
    for s1 in NORMALS:
        wanted = 0
        for half in (s1 >> 4, s1 & 15):
            policy, transient, hints = cacheability(half)
            forced = 0xF if policy == "NC" else nibble_of("WB", transient, hints)
            wanted = wanted << 4 | forced
        assert combine_memory(s1, 0b0110, True) == wanted, hex(s1)
    assert {combine_memory(s1, 0b0110, True) for s1 in DEVICES.values()} == {0xFF}


def test_forced_other_types() -> None:
    for s1 in NORMALS:
        assert combine_memory(s1, 0b0111, True) == s1
        assert combine_memory(s1, 0b0101, True) == 0x44
        assert [combine_memory(s1, m, True) for m in range(4)] == list(DEVICES.values())
    for s1 in DEVICES.values():
        assert combine_memory(s1, 0b0111, True) == s1
        assert combine_memory(s1, 0b0101, True) == s1


@pytest.mark.parametrize("s1", [NSH, OSH, ISH])
@pytest.mark.parametrize("s2", [NSH, OSH, ISH])
def test_wider_shareability_wins(s1: int, s2: int) -> None:
    order = [NSH, ISH, OSH]
    assert combine_shareability(s1, s2) == max(s1, s2, key=order.index)
