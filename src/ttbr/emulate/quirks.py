"""Where the emulated CPUs are known to differ from the architecture, and what they do instead.

`QUIRKS` is the table. The library's walk stays what the architecture says; a comparison with an
emulator applies the rows of that emulator, in the order of the table, to our side.
Found by experiment on Unicorn 2.1.4 (a fork of QEMU 5.0) and QEMU 7.2.22; each row that has an
effect is needed to explain some probe of the random comparison (`ttbr.emulate.differential`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from ttbr.arch.features import Features
from ttbr.arch.regime import WalkParams
from ttbr.emulate import quirk_effects as effects
from ttbr.emulate.quirk_effects import Answer, Asked, Registers
from ttbr.walk import Mapping

__all__ = ["ALLOWED", "QUIRKS", "WRONG", "Quirk", "quirks_of"]

UNICORN, QEMU = "unicorn", "qemu"
BOTH = (UNICORN, QEMU)

ALLOWED = "allowed"  # CONSTRAINED UNPREDICTABLE or IMPLEMENTATION DEFINED
WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Quirk:
    """One known difference: what the emulator `does`, what the architecture's `rule` is.

    At most a few of the effects are set: `registers`, `params`, `answer` and `par` turn our side
    into the emulator's; with `zero_memory` memory that is not there reads as zero. A row without
    an effect is one that the comparison keeps clear of.
    """

    id: str
    emulators: tuple[str, ...]
    judgement: str
    does: str
    rule: str
    registers: Callable[[Registers, Features], Registers] | None = None
    params: Callable[[WalkParams, Registers], WalkParams] | None = None
    answer: Callable[[Answer, Asked], Answer] | None = None
    par: Callable[[int, Mapping, Asked], int] | None = None
    zero_memory: bool = False

    @property
    def has_effect(self) -> bool:
        """Whether the row changes our side of a comparison."""
        functions = (self.registers, self.params, self.answer, self.par)
        return self.zero_memory or any(function is not None for function in functions)


def quirks_of(emulator: str) -> tuple[Quirk, ...]:
    """The rows of `QUIRKS` with an effect on *emulator* (``unicorn`` or ``qemu``), in order."""
    return tuple(q for q in QUIRKS if emulator in q.emulators and q.has_effect)


QUIRKS: tuple[Quirk, ...] = (
    Quirk(
        "B1",
        BOTH,
        WRONG,
        "takes a block descriptor at every level but the last",
        "a Translation fault where the granule has no block at that level (D8.3.1)",
        params=effects.blocks_everywhere,
    ),
    Quirk(
        "B2",
        BOTH,
        ALLOWED,
        "ignores a misprogrammed Contiguous bit, nT, and break-before-make",
        "a TLB conflict abort or a Translation fault may be taken (FEAT_BBM, D8.7.1)",
    ),
    Quirk(
        "B7",
        BOTH,
        ALLOWED,
        "takes the reserved TCR.PS=0b111 as the largest size",
        "a reserved size behaves as an IMPLEMENTATION DEFINED one",
        registers=effects.largest_output,
    ),
    Quirk(
        "U1",
        (UNICORN,),
        WRONG,
        "ORs the RES0 bits below a block's address into the output address",
        "they are RES0 and ignored (D8.3.1)",
        params=effects.raw_block_address,
    ),
    Quirk(
        "U2",
        (UNICORN,),
        WRONG,
        "has no Address size faults of a table walk",
        "an address beyond TCR.PS or PAMax is an Address size fault (AArch64.OAOutOfRange)",
        params=effects.no_size_check,
    ),
    Quirk(
        "U3",
        (UNICORN,),
        WRONG,
        "reads zero where a walk meets no memory",
        "a synchronous External abort on the table walk",
        zero_memory=True,
    ),
    Quirk(
        "U4",
        (UNICORN,),
        ALLOWED,
        "takes T0SZ and T1SZ below 16 as 16 and above 39 as 39",
        "out of range is CONSTRAINED UNPREDICTABLE: this, or a level 0 Translation fault",
        registers=effects.clamped_size,
    ),
    Quirk(
        "U5",
        (UNICORN,),
        ALLOWED,
        "takes TG0=0b11 as 64K and TG1=0b00 as 4K",
        "a reserved granule behaves as an IMPLEMENTATION DEFINED one",
        registers=effects.granule_64k_or_4k,
    ),
    Quirk(
        "U7",
        (UNICORN,),
        WRONG,
        "AT ignores HCR_EL2.E2H, and EL1 register names are not redirected at EL2",
        "EL2&0 is asked by AT S1E2, and with TGE by AT S1E1 and S1E0 (C5.4)",
    ),
    Quirk(
        "U8",
        (UNICORN,),
        ALLOWED,
        "refuses a stage 2 input larger than 44 bits",
        "an input larger than PAMax is CONSTRAINED UNPREDICTABLE",
        params=effects.stage2_start_by_pamax,
    ),
    Quirk(
        "Q1",
        (QEMU,),
        WRONG,
        "aborts: an access flag or permission fault of a leaf found at level -1, or of stage 2"
        " under a stage 1 walk at level -1",
        "no leaf exists at level -1: a Translation fault; or a fault of the stage 2 level",
    ),
    Quirk(
        "Q5",
        (QEMU,),
        WRONG,
        "takes TTBR bits [5:4] as address with DS=1 and a root below 64 bytes",
        "such a root is aligned to 64 bytes (AArch64.S1TTBaseAddress)",
        params=effects.small_root,
    ),
    Quirk(
        "Q2",
        (QEMU,),
        WRONG,
        "ignores descriptor bits [9:8] (LPA2), [15:12] (LPA) and TTBR[5:2] while PS is below 52",
        "they are output address: an Address size fault when set",
        params=effects.no_high_output_bits,
    ),
    Quirk(
        "Q6",
        (QEMU,),
        WRONG,
        "translates by stage 1 of EL1&0 while HCR_EL2.TGE=1 and E2H=0",
        "SCTLR_EL1.M behaves as 0 (HCR_EL2.TGE)",
        registers=effects.ignored_tge,
    ),
    Quirk(
        "Q8",
        (QEMU,),
        WRONG,
        "checks the start level of stage 2 against VTCR_EL2.PS, refuses 16K level 0, level -1"
        " but for T0SZ=12, and an input larger than the output",
        "the check is against PAMax, with DS=1 both levels exist (AArch64.S2InvalidSL); the last"
        " is CONSTRAINED UNPREDICTABLE",
        params=effects.stage2_start_by_output,
    ),
    Quirk(
        "Q9",
        (QEMU,),
        ALLOWED,
        "a level 0 Translation fault where TxSZ is out of range; a reserved granule is 4K",
        "both are CONSTRAINED UNPREDICTABLE, this among the choices",
        registers=effects.legal_size_4k,
        params=effects.faulting_size,
    ),
    Quirk(
        "Q11",
        (QEMU,),
        WRONG,
        "obeys TCR.HPD on a CPU without FEAT_HPDS",
        "the bit is RES0 there (TCR_EL1.HPD0)",
        params=effects.obeyed_hpd,
    ),
    Quirk(
        "Q4",
        (QEMU,),
        WRONG,
        "checks the size of a block's address before it drops the RES0 bits below it",
        "the size of the output address is checked (AArch64.OAOutOfRange)",
        answer=effects.checked_raw_blocks,
    ),
    Quirk(
        "Q7",
        (QEMU,),
        WRONG,
        "AT sets the access flag (HA) and clears AP[2] (HD); stage 2 must permit that write",
        "for the access flag IMPLEMENTATION DEFINED; AT does not update the dirty state",
        answer=effects.update_needs_write,
    ),
    Quirk(
        "B3",
        (QEMU,),
        WRONG,
        "reports the stage 1 level of a stage 2 fault on a stage 1 walk",
        "the level is that of stage 2 (AArch64.EncodePAR)",
        answer=effects.stage1_level,
    ),
    Quirk(
        "U9",
        (UNICORN,),
        WRONG,
        "reports each stage 2 fault on a stage 1 walk as a Translation fault of the stage 1 level",
        "kind and level are those of stage 2 (AArch64.EncodePAR)",
        answer=effects.stage1_level_translation,
    ),
    Quirk(
        "U10",
        (UNICORN,),
        WRONG,
        "AT of stage 1 alone reports Device-nGnRnE under HCR_EL2.DC",
        "the default cacheability is Normal Write-Back (HCR_EL2.DC)",
        par=effects.no_default_cacheability,
    ),
    Quirk(
        "B5",
        BOTH,
        WRONG,
        "drops the Transient hint of stage 1 Write-Back that stage 2 makes Write-Through",
        "the hints and Transient are those of stage 1 (S2CombineS1AttrHints)",
        par=effects.not_transient,
    ),
    Quirk(
        "B6",
        BOTH,
        WRONG,
        "takes the inner nibble of Normal memory as a Device type when the other stage is Device",
        "the Device type is that of the stage that has one (S2CombineS1MemAttrs)",
        par=effects.device_of_nibbles,
    ),
    Quirk(
        "Q10",
        (QEMU,),
        WRONG,
        "with HCR_EL2.FWB takes the Device type of stage 2 alone, ignores CD, and takes MemAttr"
        " 0b0100 and above 0b0111 as Device-nGnRnE",
        "Device types combine, CD makes Non-cacheable, MemAttr[3] is RES0"
        " (AArch64.S2ApplyFWBMemAttrs)",
        par=effects.force_write_back,
    ),
    Quirk(
        "B4",
        BOTH,
        WRONG,
        "reports the SH of the descriptor for Device and Normal Non-cacheable memory, 0 with the"
        " MMU off",
        "both are reported, and combined, as Outer Shareable (PAR_EL1.SH)",
        par=effects.raw_shareability,
    ),
)
