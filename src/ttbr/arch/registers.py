"""The system registers of translation, field by field.

Each row is a register page of Arm ARM D24 (stage 1 and 2 translation, EL1 to EL3), from the
highest field down. `REGISTERS` finds them by name; `lookup` also takes lower case and the aliases
that debuggers use. A register with two layouts has two rows: ``TCR_EL2_E2H`` is that of TCR_EL2
under HCR_EL2.E2H, ``PAR_EL1_F1`` that of a PAR_EL1 whose F is 1.
"""

from ttbr.arch.bits import Field, Register
from ttbr.arch.faults import STATUS, Fault
from ttbr.errors import InvalidError

__all__ = ["REGISTERS", "arm_name", "lookup"]

F = Field

_SHN = {0b00: "Non-shareable", 0b10: "Outer Shareable", 0b11: "Inner Shareable"}
_RGN = {0: "Non-cacheable", 1: "Write-Back RW-allocate", 2: "Write-Through", 3: "Write-Back RA"}
_TG0 = {0: "4K", 1: "64K", 2: "16K"}
_TG1 = {1: "16K", 2: "4K", 3: "64K"}
_PS = {
    0: "32 bits, 4G",
    1: "36 bits, 64G",
    2: "40 bits, 1T",
    3: "42 bits, 4T",
    4: "44 bits, 16T",
    5: "48 bits, 256T",
    6: "52 bits, 4P",
}
_ON = {0: "off", 1: "on"}


def _hwu(high: int, prefix: str) -> tuple[Field, ...]:
    """HWU62 down to HWU59 from bit *high*: hardware use of descriptor bits 62 to 59."""
    names = zip(range(62, 58, -1), range(high, high - 4, -1), strict=True)
    return tuple(
        F(f"{prefix}{bit}", at, at, f"hardware may use bit {bit}", feature="FEAT_HPDS2")
        for bit, at in names
    )


_HALF1 = (
    F("SH1", 29, 28, "shareability of TTBR1 walks", _SHN, reserved=True),
    F("ORGN1", 27, 26, "outer cacheability of TTBR1 walks", _RGN),
    F("IRGN1", 25, 24, "inner cacheability of TTBR1 walks", _RGN),
    F("EPD1", 23, 23, "TTBR1 walks disabled", _ON),
    F("A1", 22, 22, "ASID is in", {0: "TTBR0", 1: "TTBR1"}),
    F("T1SZ", 21, 16, "upper VA range is 2^(64-T1SZ) bytes"),
)
_HALF0 = (
    F("SH0", 13, 12, "shareability of TTBR0 walks", _SHN, reserved=True),
    F("ORGN0", 11, 10, "outer cacheability of TTBR0 walks", _RGN),
    F("IRGN0", 9, 8, "inner cacheability of TTBR0 walks", _RGN),
)
_TCR_TWO_RANGES = (
    F("MTX1", 61, 61, "extended memory tag checking, upper range", feature="FEAT_MTE4"),
    F("MTX0", 60, 60, "extended memory tag checking, lower range", feature="FEAT_MTE4"),
    F("DS", 59, 59, "52-bit descriptors", _ON, feature="FEAT_LPA2"),
    F("TCMA1", 58, 58, "unchecked accesses, upper range", feature="FEAT_MTE2"),
    F("TCMA0", 57, 57, "unchecked accesses, lower range", feature="FEAT_MTE2"),
    F("E0PD1", 56, 56, "EL0 access to the upper range faults", _ON, feature="FEAT_E0PD"),
    F("E0PD0", 55, 55, "EL0 access to the lower range faults", _ON, feature="FEAT_E0PD"),
    F("NFD1", 54, 54, "non-fault translation disable, upper range", feature="FEAT_SVE"),
    F("NFD0", 53, 53, "non-fault translation disable, lower range", feature="FEAT_SVE"),
    F("TBID1", 52, 52, "TBI1 is for data only", _ON, feature="FEAT_PAuth"),
    F("TBID0", 51, 51, "TBI0 is for data only", _ON, feature="FEAT_PAuth"),
    *_hwu(50, "HWU1"),
    *_hwu(46, "HWU0"),
    F("HPD1", 42, 42, "hierarchical permissions disabled, upper range", _ON, feature="FEAT_HPDS"),
    F("HPD0", 41, 41, "hierarchical permissions disabled, lower range", _ON, feature="FEAT_HPDS"),
    F("HD", 40, 40, "hardware dirty state", _ON, feature="FEAT_HAFDBS"),
    F("HA", 39, 39, "hardware access flag", _ON, feature="FEAT_HAFDBS"),
    F("TBI1", 38, 38, "top byte ignored, upper range", _ON),
    F("TBI0", 37, 37, "top byte ignored, lower range", _ON),
    F("AS", 36, 36, "ASID size", {0: "8 bits", 1: "16 bits"}),
    F("IPS", 34, 32, "intermediate physical address size", _PS, reserved=True),
    F("TG1", 31, 30, "granule of TTBR1", _TG1, reserved=True),
    *_HALF1,
    F("TG0", 15, 14, "granule of TTBR0", _TG0, reserved=True),
    *_HALF0,
    F("EPD0", 7, 7, "TTBR0 walks disabled", _ON),
    F("T0SZ", 5, 0, "lower VA range is 2^(64-T0SZ) bytes"),
)
_TCR_ONE_RANGE = (
    F("MTX", 33, 33, "extended memory tag checking", feature="FEAT_MTE4"),
    F("DS", 32, 32, "52-bit descriptors", _ON, feature="FEAT_LPA2"),
    F("TCMA", 30, 30, "unchecked accesses", feature="FEAT_MTE2"),
    F("TBID", 29, 29, "TBI is for data only", _ON, feature="FEAT_PAuth"),
    *_hwu(28, "HWU"),
    F("HPD", 24, 24, "hierarchical permissions disabled", _ON, feature="FEAT_HPDS"),
    F("HD", 22, 22, "hardware dirty state", _ON, feature="FEAT_HAFDBS"),
    F("HA", 21, 21, "hardware access flag", _ON, feature="FEAT_HAFDBS"),
    F("TBI", 20, 20, "top byte ignored", _ON),
    F("PS", 18, 16, "physical address size", _PS, reserved=True),
    F("TG0", 15, 14, "granule", _TG0, reserved=True),
    *_HALF0,
    F("T0SZ", 5, 0, "VA range is 2^(64-T0SZ) bytes"),
)
_TCR2 = (
    F("AMEC1", 13, 13, "memory encryption context, upper range", feature="FEAT_MEC"),
    F("AMEC0", 12, 12, "memory encryption context, lower range", feature="FEAT_MEC"),
    F("HAFT", 11, 11, "hardware access flag of tables", _ON, feature="FEAT_HAFT"),
    F("PTTWI", 10, 10, "permit translation table walk incoherence", feature="FEAT_THE"),
    F("D128", 5, 5, "128-bit descriptors", _ON, feature="FEAT_D128"),
    F("AIE", 4, 4, "attribute index extension", _ON, feature="FEAT_AIE"),
    F("POE", 3, 3, "permission overlay", _ON, feature="FEAT_S1POE"),
    F("E0POE", 2, 2, "permission overlay at EL0", _ON, feature="FEAT_S1POE"),
    F("PIE", 1, 1, "permission indirection", _ON, feature="FEAT_S1PIE"),
    F("PnCH", 0, 0, "bit 52 is Protected, not Contiguous", feature="FEAT_THE"),
)
_SCTLR = (
    F("TIDCP", 63, 63, "trap IMPLEMENTATION DEFINED functionality", feature="FEAT_TIDCP1"),
    F("SPINTMASK", 62, 62, "SP masks interrupts", feature="FEAT_NMI"),
    F("NMI", 61, 61, "non-maskable interrupts", feature="FEAT_NMI"),
    F("EnTP2", 60, 60, "EL0 accesses TPIDR2_EL0", feature="FEAT_SME"),
    F("TCSO", 59, 59, "tag checks of stores only", feature="FEAT_MTE_STORE_ONLY"),
    F("TCSO0", 58, 58, "tag checks of stores only at EL0", feature="FEAT_MTE_STORE_ONLY"),
    F("EPAN", 57, 57, "PAN also for EL0 execute-only", _ON, feature="FEAT_PAN3"),
    F("EnALS", 56, 56, "EL0 64-byte loads and stores", feature="FEAT_LS64"),
    F("EnAS0", 55, 55, "EL0 ST64BV0", feature="FEAT_LS64_ACCDATA"),
    F("EnASR", 54, 54, "EL0 ST64BV", feature="FEAT_LS64_V"),
    F("TWEDEL", 49, 46, "delay of the trap of WFE", feature="FEAT_TWED"),
    F("TWEDEn", 45, 45, "delayed trap of WFE", _ON, feature="FEAT_TWED"),
    F("DSSBS", 44, 44, "PSTATE.SSBS on exception entry", feature="FEAT_SSBS"),
    F("ATA", 43, 43, "allocation tag access", _ON, feature="FEAT_MTE2"),
    F("ATA0", 42, 42, "allocation tag access at EL0", _ON, feature="FEAT_MTE2"),
    F("TCF", 41, 40, "tag check faults", feature="FEAT_MTE2"),
    F("TCF0", 39, 38, "tag check faults at EL0", feature="FEAT_MTE2"),
    F("ITFSB", 37, 37, "tag check fault synchronisation", feature="FEAT_MTE2"),
    F("BT1", 36, 36, "PACIxSP are branch targets", feature="FEAT_BTI"),
    F("BT0", 35, 35, "PACIxSP are branch targets at EL0", feature="FEAT_BTI"),
    F("EnFPM", 34, 34, "EL0 accesses FPMR", feature="FEAT_FPMR"),
    F("MSCEn", 33, 33, "EL0 memory copy and set", feature="FEAT_MOPS"),
    F("CMOW", 32, 32, "EL0 cache maintenance needs write permission", feature="FEAT_CMOW"),
    F("EnIA", 31, 31, "pointer authentication, key IA", _ON, feature="FEAT_PAuth"),
    F("EnIB", 30, 30, "pointer authentication, key IB", _ON, feature="FEAT_PAuth"),
    F("LSMAOE", 29, 29, "load/store multiple atomicity", feature="FEAT_LSMAOC"),
    F("nTLSMD", 28, 28, "no trap of load/store multiple to Device", feature="FEAT_LSMAOC"),
    F("EnDA", 27, 27, "pointer authentication, key DA", _ON, feature="FEAT_PAuth"),
    F("UCI", 26, 26, "EL0 cache maintenance", _ON),
    F("EE", 25, 25, "data and tables are big-endian", {0: "little", 1: "big"}),
    F("E0E", 24, 24, "EL0 data is big-endian", {0: "little", 1: "big"}),
    F("SPAN", 23, 23, "PAN on exception entry", {0: "set", 1: "unchanged"}, feature="FEAT_PAN"),
    F("EIS", 22, 22, "exception entry is context synchronising", feature="FEAT_ExS"),
    F("IESB", 21, 21, "implicit error synchronisation", feature="FEAT_IESB"),
    F("TSCXT", 20, 20, "trap SCXTNUM_EL0", feature="FEAT_CSV2_2"),
    F("WXN", 19, 19, "writable is execute-never", _ON),
    F("nTWE", 18, 18, "no trap of WFE"),
    F("nTWI", 16, 16, "no trap of WFI"),
    F("UCT", 15, 15, "EL0 reads CTR_EL0"),
    F("DZE", 14, 14, "EL0 DC ZVA"),
    F("EnDB", 13, 13, "pointer authentication, key DB", _ON, feature="FEAT_PAuth"),
    F("I", 12, 12, "instruction cache", _ON),
    F("EOS", 11, 11, "exception return is context synchronising", feature="FEAT_ExS"),
    F("EnRCTX", 10, 10, "EL0 speculation restriction", feature="FEAT_SPECRES"),
    F("UMA", 9, 9, "EL0 accesses DAIF"),
    F("SED", 8, 8, "SETEND disabled"),
    F("ITD", 7, 7, "IT disabled"),
    F("nAA", 6, 6, "unaligned accesses", feature="FEAT_LSE2"),
    F("CP15BEN", 5, 5, "AArch32 barriers"),
    F("SA0", 4, 4, "stack alignment check at EL0", _ON),
    F("SA", 3, 3, "stack alignment check", _ON),
    F("C", 2, 2, "data cache", _ON),
    F("A", 1, 1, "alignment check", _ON),
    F("M", 0, 0, "MMU", _ON),
)
_TTBR = (
    F("ASID", 63, 48, "address space identifier"),
    F("BADDR", 47, 1, "table base address [47:1]; with 52-bit output bits 5:2 are [51:48]"),
    F("CnP", 0, 0, "common not private", _ON, feature="FEAT_TTCNP"),
)
_MAIR = tuple(F(f"Attr{i}", 8 * i + 7, 8 * i, "memory type") for i in range(7, -1, -1))
_F = F("F", 0, 0, "translation", {0: "succeeded", 1: "failed"})
_FST = {code: str(Fault(kind, level)) for (kind, level), code in STATUS.items()}
_FEATURE_4K = {0: "4K", 1: "4K with 52-bit", 0xF: "no 4K"}
_FEATURE_16K = {0: "no 16K", 1: "16K", 2: "16K with 52-bit"}
_FEATURE_64K = {0: "64K", 0xF: "no 64K"}


def _two_ranges(name: str, title: str, **kw: int) -> Register:
    return Register(name, title, _TCR_TWO_RANGES, **kw)


_ROWS = (
    _two_ranges("TCR_EL1", "Translation Control Register (EL1)"),
    Register(
        "TCR_EL2", "Translation Control Register (EL2), E2H=0", _TCR_ONE_RANGE, 1 << 31 | 1 << 23
    ),
    Register(
        "TCR_EL3",
        "Translation Control Register (EL3)",
        (
            F("DisCH0", 43, 43, "no contiguous runs in the root", feature="FEAT_D128"),
            F("HAFT", 42, 42, "hardware access flag of tables", _ON, feature="FEAT_HAFT"),
            F("PTTWI", 41, 41, "permit translation table walk incoherence", feature="FEAT_THE"),
            F("D128", 38, 38, "128-bit descriptors", _ON, feature="FEAT_D128"),
            F("AIE", 37, 37, "attribute index extension", _ON, feature="FEAT_AIE"),
            F("POE", 36, 36, "permission overlay", _ON, feature="FEAT_S1POE"),
            F("PIE", 35, 35, "permission indirection", _ON, feature="FEAT_S1PIE"),
            F("PnCH", 34, 34, "bit 52 is Protected, not Contiguous", feature="FEAT_THE"),
            *_TCR_ONE_RANGE,
        ),
        1 << 31 | 1 << 23,
    ),
    Register("TCR2_EL1", "Extended Translation Control Register (EL1)", _TCR2),
    Register("TCR2_EL2", "Extended Translation Control Register (EL2)", _TCR2),
    Register(
        "VTCR_EL2",
        "Virtualization Translation Control Register",
        (
            F("HDBSS", 45, 45, "dirty state tracking structure", _ON, feature="FEAT_HDBSS"),
            F("HAFT", 44, 44, "hardware access flag of tables", feature="FEAT_HAFT"),
            F("TL0", 41, 41, "TopLevel checks at EL0", _ON, feature="FEAT_THE"),
            F("GCSH", 40, 40, "AssuredOnly for guarded control stacks", _ON, feature="FEAT_THE"),
            F("D128", 38, 38, "128-bit descriptors", _ON, feature="FEAT_D128"),
            F("S2POE", 37, 37, "permission overlay", _ON, feature="FEAT_S2POE"),
            F("S2PIE", 36, 36, "permission indirection", _ON, feature="FEAT_S2PIE"),
            F("TL1", 35, 35, "TopLevel checks at EL1", _ON, feature="FEAT_THE"),
            F("AssuredOnly", 34, 34, "AssuredOnly checks", _ON, feature="FEAT_THE"),
            F("SL2", 33, 33, "start level, high bit", feature="FEAT_LPA2"),
            F("DS", 32, 32, "52-bit descriptors", _ON, feature="FEAT_LPA2"),
            F("NSA", 30, 30, "Non-secure IPA space output", feature="FEAT_SEL2"),
            F("NSW", 29, 29, "Non-secure IPA space walks", feature="FEAT_SEL2"),
            *_hwu(28, "HWU"),
            F("HD", 22, 22, "hardware dirty state", _ON, feature="FEAT_HAFDBS"),
            F("HA", 21, 21, "hardware access flag", _ON, feature="FEAT_HAFDBS"),
            F("VS", 19, 19, "VMID size", {0: "8 bits", 1: "16 bits"}),
            F("PS", 18, 16, "physical address size", _PS, reserved=True),
            F("TG0", 15, 14, "granule", _TG0, reserved=True),
            *_HALF0,
            F("SL0", 7, 6, "start level"),
            F("T0SZ", 5, 0, "IPA range is 2^(64-T0SZ) bytes"),
        ),
        1 << 31,
    ),
    *(
        Register(name, f"Translation Table Base Register {name[4]} ({name[6:]})", _TTBR)
        for name in ("TTBR0_EL1", "TTBR1_EL1", "TTBR0_EL2", "TTBR1_EL2", "TTBR0_EL3")
    ),
    Register(
        "VTTBR_EL2",
        "Virtualization Translation Table Base Register",
        (F("VMID", 63, 48, "virtual machine identifier"), *_TTBR[1:]),
    ),
    *(
        Register(f"MAIR_EL{el}", f"Memory Attribute Indirection Register (EL{el})", _MAIR)
        for el in (1, 2, 3)
    ),
    *(Register(f"SCTLR_EL{el}", f"System Control Register (EL{el})", _SCTLR) for el in (1, 2, 3)),
    Register(
        "HCR_EL2",
        "Hypervisor Configuration Register",
        (
            F("TWEDEL", 63, 60, "delay of the trap of WFE", feature="FEAT_TWED"),
            F("TWEDEn", 59, 59, "delayed trap of WFE", _ON, feature="FEAT_TWED"),
            F("TID5", 58, 58, "trap ID group 5", feature="FEAT_MTE2"),
            F("DCT", 57, 57, "default cacheability is Tagged", feature="FEAT_MTE2"),
            F("ATA", 56, 56, "allocation tag access", _ON, feature="FEAT_MTE2"),
            F("TTLBOS", 55, 55, "trap TLBI of the outer domain", feature="FEAT_EVT"),
            F("TTLBIS", 54, 54, "trap TLBI of the inner domain", feature="FEAT_EVT"),
            F("EnSCXT", 53, 53, "EL1 and EL0 access SCXTNUM", feature="FEAT_CSV2_2"),
            F("TOCU", 52, 52, "trap cache maintenance to PoU", feature="FEAT_EVT"),
            F("AMVOFFEN", 51, 51, "activity monitor offsets", feature="FEAT_AMUv1p1"),
            F("TICAB", 50, 50, "trap IC IALLUIS", feature="FEAT_EVT"),
            F("TID4", 49, 49, "trap ID group 4", feature="FEAT_EVT"),
            F("GPF", 48, 48, "route granule protection faults", feature="FEAT_RME"),
            F("FIEN", 47, 47, "fault injection", feature="FEAT_RASv1p1"),
            F("FWB", 46, 46, "stage 2 forces Write-Back", _ON, feature="FEAT_S2FWB"),
            F("NV2", 45, 45, "nested virtualization", feature="FEAT_NV2"),
            F("AT", 44, 44, "trap AT S1E*", feature="FEAT_NV"),
            F("NV1", 43, 43, "nested virtualization", feature="FEAT_NV"),
            F("NV", 42, 42, "nested virtualization", feature="FEAT_NV"),
            F("API", 41, 41, "pointer authentication instructions", feature="FEAT_PAuth"),
            F("APK", 40, 40, "pointer authentication keys", feature="FEAT_PAuth"),
            F("TME", 39, 39, "transactional memory", feature="FEAT_TME"),
            F("MIOCNCE", 38, 38, "mismatched cacheability may lose coherency"),
            F("TEA", 37, 37, "route external aborts", feature="FEAT_RAS"),
            F("TERR", 36, 36, "trap error records", feature="FEAT_RAS"),
            F("TLOR", 35, 35, "trap LOR registers", feature="FEAT_LOR"),
            F("E2H", 34, 34, "EL2 is a host", _ON, feature="FEAT_VHE"),
            F("ID", 33, 33, "stage 2 instruction cacheability disable"),
            F("CD", 32, 32, "stage 2 cacheability disable"),
            F("RW", 31, 31, "EL1 is AArch64", {0: "AArch32", 1: "AArch64"}),
            F("TRVM", 30, 30, "trap reads of VM controls"),
            F("HCD", 29, 29, "HVC disabled"),
            F("TDZ", 28, 28, "trap DC ZVA"),
            F("TGE", 27, 27, "trap general exceptions", _ON),
            F("TVM", 26, 26, "trap VM controls"),
            F("TTLB", 25, 25, "trap TLB maintenance"),
            F("TPU", 24, 24, "trap cache maintenance to PoU"),
            F("TPCP", 23, 23, "trap cache maintenance to PoC"),
            F("TSW", 22, 22, "trap set/way"),
            F("TACR", 21, 21, "trap ACTLR"),
            F("TIDCP", 20, 20, "trap IMPLEMENTATION DEFINED functionality"),
            F("TSC", 19, 19, "trap SMC"),
            F("TID3", 18, 18, "trap ID group 3"),
            F("TID2", 17, 17, "trap ID group 2"),
            F("TID1", 16, 16, "trap ID group 1"),
            F("TID0", 15, 15, "trap ID group 0"),
            F("TWE", 14, 14, "trap WFE"),
            F("TWI", 13, 13, "trap WFI"),
            F("DC", 12, 12, "default cacheability", _ON),
            F("BSU", 11, 10, "barrier shareability upgrade"),
            F("FB", 9, 9, "force broadcast"),
            F("VSE", 8, 8, "virtual SError"),
            F("VI", 7, 7, "virtual IRQ"),
            F("VF", 6, 6, "virtual FIQ"),
            F("AMO", 5, 5, "route SError"),
            F("IMO", 4, 4, "route IRQ"),
            F("FMO", 3, 3, "route FIQ"),
            F("PTW", 2, 2, "protected table walk", _ON),
            F("SWIO", 1, 1, "set/way invalidation override"),
            F("VM", 0, 0, "stage 2 translation", _ON),
        ),
    ),
    Register(
        "SCR_EL3",
        "Secure Configuration Register",
        (
            F("NSE", 62, 62, "Realm or Root with NS", feature="FEAT_RME"),
            F("EEL2", 18, 18, "Secure EL2", _ON, feature="FEAT_SEL2"),
            F("RW", 10, 10, "EL2 is AArch64", {0: "AArch32", 1: "AArch64"}),
            F("NS", 0, 0, "Non-secure", {0: "Secure", 1: "Non-secure"}),
        ),
    ),
    Register(
        "PAR_EL1",
        "Physical Address Register, F=0",
        (
            F("ATTR", 63, 56, "memory type"),
            F("PA", 51, 12, "output address [51:12]"),
            F("IMP", 10, 10, "IMPLEMENTATION DEFINED"),
            F("NS", 9, 9, "output address in Non-secure space"),
            F("SH", 8, 7, "shareability", _SHN, reserved=True),
            _F,
        ),
        1 << 11,
    ),
    Register(
        "ID_AA64MMFR0_EL1",
        "AArch64 Memory Model Feature Register 0",
        (
            F("ECV", 63, 60, "enhanced counter virtualization"),
            F("FGT", 59, 56, "fine-grained traps"),
            F("ExS", 47, 44, "disabling context synchronising exceptions"),
            F(
                "TGran4_2",
                43,
                40,
                "4K at stage 2",
                {0: "as stage 1", 1: "no", 2: "yes", 3: "52-bit"},
            ),
            F("TGran64_2", 39, 36, "64K at stage 2", {0: "as stage 1", 1: "no", 2: "yes"}),
            F(
                "TGran16_2",
                35,
                32,
                "16K at stage 2",
                {0: "as stage 1", 1: "no", 2: "yes", 3: "52-bit"},
            ),
            F("TGran4", 31, 28, "4K granule", _FEATURE_4K),
            F("TGran64", 27, 24, "64K granule", _FEATURE_64K),
            F("TGran16", 23, 20, "16K granule", _FEATURE_16K),
            F("BigEndEL0", 19, 16, "mixed endian at EL0"),
            F("SNSMem", 15, 12, "Secure and Non-secure memory"),
            F("BigEnd", 11, 8, "mixed endian"),
            F("ASIDBits", 7, 4, "ASID size", {0: "8 bits", 2: "16 bits"}),
            F("PARange", 3, 0, "physical address size", _PS, reserved=True),
        ),
    ),
    Register(
        "ID_AA64MMFR1_EL1",
        "AArch64 Memory Model Feature Register 1",
        (
            F("ECBHB", 63, 60, "exploitative control using branch history"),
            F("CMOW", 59, 56, "cache maintenance permission"),
            F("TIDCP1", 55, 52, "TIDCP at EL0"),
            F("nTLBPA", 51, 48, "no PA-indexed caching in TLBs", {0: "may be", 1: "none"}),
            F("AFP", 47, 44, "alternate floating-point"),
            F("HCX", 43, 40, "HCRX_EL2"),
            F("ETS", 39, 36, "enhanced translation synchronisation"),
            F("TWED", 35, 32, "delayed trap of WFE"),
            F("XNX", 31, 28, "stage 2 execute-never by EL", {0: "no", 1: "FEAT_XNX"}),
            F("SpecSEI", 27, 24, "SError on speculative reads"),
            F("PAN", 23, 20, "PAN", {0: "no", 1: "FEAT_PAN", 2: "FEAT_PAN2", 3: "FEAT_PAN3"}),
            F("LO", 19, 16, "limited ordering regions"),
            F("HPDS", 15, 12, "HPD", {0: "no", 1: "FEAT_HPDS", 2: "FEAT_HPDS2"}),
            F("VH", 11, 8, "VHE", {0: "no", 1: "FEAT_VHE"}),
            F("VMIDBits", 7, 4, "VMID size", {0: "8 bits", 2: "16 bits"}),
            F("HAFDBS", 3, 0, "hardware AF and dirty state", {0: "no", 1: "AF", 2: "AF, dirty"}),
        ),
    ),
    Register(
        "ID_AA64MMFR2_EL1",
        "AArch64 Memory Model Feature Register 2",
        (
            F("E0PD", 63, 60, "E0PD", {0: "no", 1: "FEAT_E0PD"}),
            F("EVT", 59, 56, "enhanced virtualization traps"),
            F("BBM", 55, 52, "break-before-make level", {0: "0", 1: "1", 2: "2"}),
            F("TTL", 51, 48, "TTL in TLBI", {0: "no", 1: "FEAT_TTL"}),
            F("FWB", 43, 40, "stage 2 forced Write-Back", {0: "no", 1: "FEAT_S2FWB"}),
            F("IDS", 39, 36, "trapped ID register access"),
            F("AT", 35, 32, "unaligned atomicity"),
            F("ST", 31, 28, "small translation tables", {0: "no", 1: "FEAT_TTST"}),
            F("NV", 27, 24, "nested virtualization"),
            F("CCIDX", 23, 20, "CCSIDR format"),
            F("VARange", 19, 16, "VA size", {0: "48 bits", 1: "52 bits with 64K (FEAT_LVA)"}),
            F("IESB", 15, 12, "implicit error synchronisation"),
            F("LSM", 11, 8, "load/store multiple controls"),
            F("UAO", 7, 4, "user access override"),
            F("CnP", 3, 0, "common not private", {0: "no", 1: "FEAT_TTCNP"}),
        ),
    ),
)

# The other layout of a register that has two.
_SECOND = {
    "TCR_EL2_E2H": _two_ranges("TCR_EL2", "Translation Control Register (EL2), E2H=1"),
    "PAR_EL1_F1": Register(
        "PAR_EL1",
        "Physical Address Register, F=1",
        (
            F("IMP", 63, 48, "IMPLEMENTATION DEFINED"),
            F("DirtyBit", 15, 15, "dirty state, by permission indirection", feature="FEAT_S1PIE"),
            F("Overlay", 14, 14, "denied by a permission overlay", feature="FEAT_S1POE"),
            F("TopLevel", 13, 13, "denied by TopLevel", feature="FEAT_THE"),
            F("AssuredOnly", 12, 12, "denied by AssuredOnly", feature="FEAT_THE"),
            F("S", 9, 9, "the fault is of", {0: "stage 1", 1: "stage 2"}),
            F("PTW", 8, 8, "stage 2 fault on a stage 1 table walk", {0: "no", 1: "yes"}),
            F("FST", 6, 1, "fault status code", _FST),
            _F,
        ),
        1 << 11,
    ),
}

REGISTERS: dict[str, Register] = {register.name: register for register in _ROWS} | _SECOND

# QEMU's debug stub drops the suffix of some EL1 registers.
_ALIASES = {"SCTLR": "SCTLR_EL1", "VBAR": "VBAR_EL1", "CPACR": "CPACR_EL1"}


def arm_name(name: str) -> str:
    """The Arm name of the register that a tool or a person calls *name*, known here or not."""
    upper = name.upper()
    return _ALIASES.get(upper, upper)


def lookup(name: str, value: int = 0) -> Register:
    """The register called *name*, in any case; `InvalidError` with near names otherwise.

    PAR_EL1 has two layouts; *value* chooses by its bit F.
    """
    known = arm_name(name)
    if known == "PAR_EL1" and value & 1:
        known = "PAR_EL1_F1"
    found = REGISTERS.get(known)
    if found is None:
        raise InvalidError(f"register {name!r} is not known; known: {', '.join(REGISTERS)}")
    return found
