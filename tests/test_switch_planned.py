"""Verdicts of the strategies and of the EL1 sequences on real boards."""

import pytest

from ttbr.boards import load
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.eras import version
from ttbr.linux.strategies import STRATEGIES, plan
from ttbr.switch.exposure import exposure
from ttbr.switch.planned import EL1_SEQUENCES, el1_problem, planned_problem, vhe_problem
from ttbr.switch.prove import prove, prove_all

IMAGES = {
    "seattle": 0x80_0008_0000,
    "sbsa-ref": 0x100_0008_0000,
    "xgene1": 0x40_0008_0000,
    "lx2160a": 0x8008_0000,
}
# An ID map that is extended, on Seattle (slot 1) and sbsa-ref (slot 2).
EXTENDED = {
    "shared-idmap": "SAFE assuming {A-DSB}",
    "merged-root": "SAFE assuming {A-DSB}",
    "dedicated-root": "SAFE assuming {A-IC, A-DSB}",
    "level-skip": "UNSAFE",
    "level-skip-v1": "SAFE",
    "level-skip-v2": "SAFE",
    "level-skip-v3": "UNSAFE",
    "level-skip-v4": "UNSAFE",
    "mmu-off": "SAFE",
    "mmu-off-narrow": "UNSAFE",
    "wide-hyp": "SAFE assuming {A-DSB}",
    "always-48": "SAFE assuming {A-DSB}",
}
# One that is not, on X-Gene (inside the HYP range) and LX2160A (below it).
PLAIN = {
    "separate": "SAFE assuming {A-IC, A-DSB}",
    "mmu-off": "SAFE",
    "single-split": "SAFE assuming {A-DSB}",
    "wide-hyp": "SAFE assuming {A-DSB}",
    "always-48": "SAFE assuming {A-DSB}",
}
VERDICTS = {"seattle": EXTENDED, "sbsa-ref": EXTENDED, "xgene1": PLAIN, "lx2160a": PLAIN}


def kernel(board: str, release: str = "", vhe: bool = False) -> KernelConfig:
    """Linux 4.1; 4.5 for RAM above the 40 bits that TCR_EL2.PS had until then."""
    image = IMAGES[board]
    release = release or ("4.5" if board == "sbsa-ref" else "4.1")
    return configure(
        release, "4K", 39, image, image_end=image + 0x80_0000, idmap_text=image + 0x40_0000, vhe=vhe
    )


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("board", VERDICTS)
def test_strategy(board: str, name: str) -> None:
    if name == "vhe":
        config = kernel(board, "6.1", vhe=True)
        assert prove_all(vhe_problem(config, load(board))).verdict == "SAFE"
        return
    found = plan(name, kernel(board), load(board))
    wanted = VERDICTS[board].get(name)
    if wanted is None:
        with pytest.raises(InvalidError):
            planned_problem(found)
        return
    assert prove_all(planned_problem(found)).verdict == wanted


@pytest.mark.parametrize("board", ["seattle", "sbsa-ref"])
def test_level_skip_as_worded_faults_and_walks_junk(board: str) -> None:
    result = prove(planned_problem(plan("level-skip", kernel(board), load(board))))
    assert result.kinds == ("FAULT",)
    junk = [item for item in exposure(result.timeline) if item.kind == "junk"]
    assert junk
    repaired = prove(planned_problem(plan("level-skip-v1", kernel(board), load(board))))
    assert not exposure(repaired.timeline)


@pytest.mark.parametrize("board", ["seattle", "sbsa-ref"])
def test_the_mmu_cannot_be_turned_on_above_the_input_range(board: str) -> None:
    result = prove(planned_problem(plan("mmu-off-narrow", kernel(board), load(board))))
    assert result.kinds == ("FAULT",)


def test_a_fixed_output_size_of_40_bits_faults() -> None:
    found = plan("merged-root", kernel("sbsa-ref", "4.4"), load("sbsa-ref"))
    assert "TCR_EL2.PS says 40 bits" in found.why_not
    result = prove(planned_problem(found))
    assert result.kinds == ("FAULT",)


@pytest.mark.parametrize("board", ["seattle", "sbsa-ref"])
def test_the_low_forms_change_a_live_leafs_size(board: str) -> None:
    for name in ("level-skip-v3", "level-skip-v4"):
        problem = planned_problem(plan(name, kernel(board), load(board)))
        assert prove(problem).kinds == ("CONFLICT",)


RELEASES = ("4.1", "4.4", "4.6", "5.15", "6.1")
# The release from which on Linux has the routine, where that is not the first of these.
SINCE = {
    "install-idmap": "4.6",
    "replace-ttbr1": "4.6",
    "replace-ttbr1-by-zero": "4.7",
    "kexec": "4.8",
    "install-ttbr0": "5.12",
}


def has(name: str, release: str) -> bool:
    return version(release) >= version(SINCE.get(name, "3.7"))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", EL1_SEQUENCES)
@pytest.mark.parametrize("board", ["seattle", "lx2160a"])
def test_el1_sequence(board: str, name: str, release: str) -> None:
    config = kernel(board, release)
    if not has(name, release):
        with pytest.raises(UnsupportedError, match="since Linux"):
            el1_problem(name, config, load(board))
        return
    result = prove_all(el1_problem(name, config, load(board)))
    # e13d918a19a7: until 4.3 resume restored T0SZ 25 under the extended ID map.
    lost = name == "resume" and release == "4.1" and board == "seattle"
    assert result.verdict == ("UNSAFE" if lost else "SAFE")


def test_an_unknown_sequence_is_refused() -> None:
    with pytest.raises(InvalidError, match="must be one of enable"):
        el1_problem("nothing", kernel("seattle"), load("seattle"))
