"""What speculation may reach although no access goes there."""

from dataclasses import replace

from switch_catalogue import HIGH, K4, M2, RUN, Kernel, hyp_init, hyp_problem, hyp_registers
from switch_tables import DEVICE, RO, UXN, Arena, Trace, tcr2
from ttbr.switch.exposure import EXPOSURES, Exposure, exposure
from ttbr.switch.problem import Intent, Problem
from ttbr.switch.timeline import timeline

UART = 0x900_0000


def level_skip(t0sz: int, **tcr: int) -> Problem:
    """The repaired level skip with a few pages in each of two run-time level 3 tables."""
    arena = Arena()
    root = arena.table()
    arena.map(root, HIGH, HIGH, 48)
    arena.put(root, root | 3)
    for va in (RUN, RUN + K4, RUN + M2):
        arena.map(root, va, HIGH, 39)
    t = hyp_init(root, tcr2(t0sz, **tcr), HIGH).br(RUN).msr("TCR_EL2", tcr2(25, **tcr)).isb()
    intent = (Intent(HIGH & -K4, K4, HIGH & -K4), Intent(RUN & -K4, K4, HIGH & -K4))
    return hyp_problem(arena, hyp_registers(), t.nop(), *intent)


def kinds(problem: Problem, device: tuple[tuple[int, int], ...] = ()) -> list[str]:
    found = exposure(timeline(replace(problem, devices=device)))
    return sorted({e.kind for e in found} - {"writable-table"})


def test_level_skip_with_the_largest_t0sz_exposes_nothing() -> None:
    assert kinds(level_skip(24)) == []


def test_level_skip_with_48_bits_reads_pages_as_tables() -> None:
    """Entries k of the root are in range under T0SZ=16: their pages are read as level 3 tables."""
    found = [e for e in exposure(timeline(level_skip(16))) if e.kind == "junk"]
    assert found
    assert {e.level for e in found} == {2}
    assert {e.config.values["T0SZ"] for e in found} == {16}
    # Two runs of page entries, in two level 3 tables that are read at level 2.
    assert [e.size for e in found] == [2 << 21, 1 << 21]


def test_junk_with_hardware_access_flags() -> None:
    """R_LHQRX; and without AF=0 as a mask, the aliases of the tables are mappings."""
    assert "junk-written" in kinds(level_skip(16, HA=1))
    aliases = [e for e in exposure(timeline(level_skip(24, HA=1))) if e.kind == "writable-table"]
    assert aliases


def kernel_map(*maps: tuple[int, int, int]) -> tuple[Kernel, Problem]:
    k = Kernel()
    for va, pa, extra in maps:
        k.map(k.root, va, pa, extra=extra)
    return k, k.problem(Trace(k.intent[0].va, el=1).nop())


def found(problem: Problem) -> list[Exposure]:
    linear = 0x6000_0000
    return [
        e
        for e in exposure(timeline(replace(problem, devices=((UART, K4),))))
        if e.target & -M2 != linear  # the map of the tables themselves
    ]


VA = 0xFFFF_FF80_8000_0000


def test_normal_over_device() -> None:
    _, problem = kernel_map((VA, UART, UXN))
    (one,) = found(problem)
    assert (one.kind, one.va, one.target) == ("normal-over-device", VA, UART)


def test_neighbours_are_one_interval() -> None:
    _, problem = kernel_map(*((VA + i * K4, UART, UXN) for i in range(5)))
    (one,) = found(problem)
    assert one.size == 5 * K4


def test_executable_device() -> None:
    k = Kernel()
    k.map(k.root, VA, UART, index=DEVICE)
    k.map(k.root, VA + M2, UART, index=DEVICE, extra=UXN | 1 << 53)
    (one,) = found(k.problem(Trace(k.intent[0].va, el=1).nop()))
    assert (one.kind, one.va) == ("executable-device", VA)


def test_writable_tables() -> None:
    k = Kernel()
    k.map(k.root, VA, k.root)
    k.map(k.root, VA + K4, k.root, extra=RO)
    line = timeline(k.problem(Trace(k.intent[0].va, el=1).nop()))
    written = {e.va for e in exposure(line) if e.kind == "writable-table"}
    assert VA in written
    assert VA + K4 not in written


def test_a_pointer_into_device_memory() -> None:
    k = Kernel()
    k.arena.put(k.arena.location(k.root, VA & (1 << 39) - 1, 2, 39), UART | 3)
    (one,) = found(k.problem(Trace(k.intent[0].va, el=1).nop()))
    assert (one.kind, one.level, one.target) == ("junk-device", 2, UART)


def test_stored_values_count() -> None:
    k = Kernel()
    at = k.arena.location(k.root, VA & (1 << 39) - 1, 2, 39)
    t = Trace(k.intent[0].va, el=1).store(k.alias(at), UART | 3)
    assert [e.kind for e in found(k.problem(t))] == ["junk-device"]


def test_nothing_is_walked_with_epd() -> None:
    k, problem = kernel_map((VA, UART, UXN))
    epd = problem.registers["TCR_EL1"] | 1 << 23
    assert not found(replace(problem, registers={**problem.registers, "TCR_EL1": epd}))
    assert set(EXPOSURES) >= {
        e.kind for e in exposure(timeline(replace(problem, devices=((UART, K4),))))
    }
    assert k.root
