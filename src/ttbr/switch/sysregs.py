"""System registers by name and by encoding, the VHE redirections, and the other system operations.

`SYSTEM_REGISTERS` is keyed by (op0, op1, CRn, CRm); the position in a row is op2, ``-`` a gap
(Arm ARM D24, C5.2). A register that is not listed goes by its generic name
``S<op0>_<op1>_C<n>_C<m>_<op2>``; `register_name` turns every spelling into the one name.
"""

import re
from functools import cache

__all__ = [
    "LEAST_EL",
    "PSTATE_FIELDS",
    "SYSTEM_OPERATIONS",
    "SYSTEM_REGISTERS",
    "TRANSLATION_REGISTERS",
    "encoding_of",
    "operation_encoding",
    "redirected",
    "register_at",
    "register_name",
]

Encoding = tuple[int, int, int, int, int]

SYSTEM_REGISTERS: dict[tuple[int, int, int, int], str] = {
    (2, 0, 0, 2): "MDCCINT_EL1 - MDSCR_EL1",
    (2, 0, 1, 0): "MDRAR_EL1 - - - OSLAR_EL1",
    (2, 0, 1, 1): "- - - - OSLSR_EL1",
    (2, 0, 1, 3): "- - - - OSDLR_EL1",
    (3, 0, 0, 0): "MIDR_EL1 - - - - MPIDR_EL1 REVIDR_EL1",
    (
        3,
        0,
        0,
        4,
    ): "ID_AA64PFR0_EL1 ID_AA64PFR1_EL1 ID_AA64PFR2_EL1 - ID_AA64ZFR0_EL1 ID_AA64SMFR0_EL1",
    (3, 0, 0, 5): "ID_AA64DFR0_EL1 ID_AA64DFR1_EL1 - - ID_AA64AFR0_EL1 ID_AA64AFR1_EL1",
    (3, 0, 0, 6): "ID_AA64ISAR0_EL1 ID_AA64ISAR1_EL1 ID_AA64ISAR2_EL1",
    (3, 0, 0, 7): "ID_AA64MMFR0_EL1 ID_AA64MMFR1_EL1 ID_AA64MMFR2_EL1 ID_AA64MMFR3_EL1 "
    "ID_AA64MMFR4_EL1",
    (3, 0, 1, 0): "SCTLR_EL1 ACTLR_EL1 CPACR_EL1 SCTLR2_EL1 - RGSR_EL1 GCR_EL1",
    (3, 0, 1, 2): "ZCR_EL1 TRFCR_EL1 - - SMPRI_EL1 - SMCR_EL1",
    (3, 0, 2, 0): "TTBR0_EL1 TTBR1_EL1 TCR_EL1 TCR2_EL1",
    (3, 0, 2, 1): "APIAKEYLO_EL1 APIAKEYHI_EL1 APIBKEYLO_EL1 APIBKEYHI_EL1",
    (3, 0, 2, 2): "APDAKEYLO_EL1 APDAKEYHI_EL1 APDBKEYLO_EL1 APDBKEYHI_EL1",
    (3, 0, 2, 3): "APGAKEYLO_EL1 APGAKEYHI_EL1",
    (3, 0, 4, 0): "SPSR_EL1 ELR_EL1",
    (3, 0, 4, 1): "SP_EL0",
    (3, 0, 4, 2): "SPSEL - CURRENTEL PAN UAO",
    (3, 0, 4, 6): "ICC_PMR_EL1",
    (3, 0, 5, 1): "AFSR0_EL1 AFSR1_EL1",
    (3, 0, 5, 2): "ESR_EL1",
    (3, 0, 5, 6): "TFSR_EL1 TFSRE0_EL1",
    (3, 0, 6, 0): "FAR_EL1",
    (3, 0, 7, 4): "PAR_EL1",
    (3, 0, 9, 9): "PMSCR_EL1",
    (3, 0, 9, 10): "PMBLIMITR_EL1 PMBPTR_EL1 - PMBSR_EL1 - - - PMBIDR_EL1",
    (3, 0, 9, 11): "TRBLIMITR_EL1 TRBPTR_EL1",
    (3, 0, 10, 2): "MAIR_EL1 - PIRE0_EL1 PIR_EL1 POR_EL1",
    (3, 0, 10, 3): "AMAIR_EL1",
    (3, 0, 12, 0): "VBAR_EL1 RVBAR_EL1 RMR_EL1",
    (3, 0, 12, 1): "ISR_EL1 DISR_EL1",
    (3, 0, 12, 12): "- - - - ICC_CTLR_EL1 ICC_SRE_EL1 ICC_IGRPEN0_EL1 ICC_IGRPEN1_EL1",
    (3, 0, 13, 0): "- CONTEXTIDR_EL1 - - TPIDR_EL1 - - SCXTNUM_EL1",
    (3, 0, 14, 1): "CNTKCTL_EL1",
    (3, 1, 0, 0): "CCSIDR_EL1 CLIDR_EL1 - - GMID_EL1 - - AIDR_EL1",
    (3, 2, 0, 0): "CSSELR_EL1",
    (3, 3, 0, 0): "- CTR_EL0 - - - - - DCZID_EL0",
    (3, 3, 4, 2): "NZCV DAIF - - - DIT SSBS TCO",
    (3, 3, 4, 4): "FPCR FPSR",
    (3, 3, 9, 12): "PMCR_EL0 PMCNTENSET_EL0 PMCNTENCLR_EL0 PMOVSCLR_EL0",
    (3, 3, 9, 14): "PMUSERENR_EL0",
    (3, 3, 13, 0): "- - TPIDR_EL0 TPIDRRO_EL0 - - - SCXTNUM_EL0",
    (3, 3, 13, 2): "AMCR_EL0 AMCFGR_EL0 AMCGCR_EL0 AMUSERENR_EL0",
    (3, 3, 14, 0): "CNTFRQ_EL0 CNTPCT_EL0 CNTVCT_EL0",
    (3, 3, 14, 2): "CNTP_TVAL_EL0 CNTP_CTL_EL0 CNTP_CVAL_EL0",
    (3, 3, 14, 3): "CNTV_TVAL_EL0 CNTV_CTL_EL0 CNTV_CVAL_EL0",
    (3, 4, 0, 0): "VPIDR_EL2 - - - - VMPIDR_EL2",
    (3, 4, 1, 0): "SCTLR_EL2 ACTLR_EL2 - SCTLR2_EL2",
    (3, 4, 1, 1): "HCR_EL2 MDCR_EL2 CPTR_EL2 HSTR_EL2 HFGRTR_EL2 HFGWTR_EL2 HFGITR_EL2 HACR_EL2",
    (3, 4, 1, 2): "ZCR_EL2 TRFCR_EL2 HCRX_EL2 - - SMPRIMAP_EL2 SMCR_EL2",
    (3, 4, 2, 0): "TTBR0_EL2 TTBR1_EL2 TCR_EL2 TCR2_EL2",
    (3, 4, 2, 1): "VTTBR_EL2 - VTCR_EL2",
    (3, 4, 2, 6): "VSTTBR_EL2 - VSTCR_EL2",
    (3, 4, 3, 1): "- - - - HDFGRTR_EL2 HDFGWTR_EL2 HAFGRTR_EL2",
    (3, 4, 4, 0): "SPSR_EL2 ELR_EL2",
    (3, 4, 4, 1): "SP_EL1",
    (3, 4, 5, 1): "AFSR0_EL2 AFSR1_EL2",
    (3, 4, 5, 2): "ESR_EL2",
    (3, 4, 6, 0): "FAR_EL2 - - - HPFAR_EL2",
    (3, 4, 9, 9): "PMSCR_EL2",
    (3, 4, 10, 2): "MAIR_EL2 - PIRE0_EL2 PIR_EL2 POR_EL2",
    (3, 4, 10, 3): "AMAIR_EL2",
    (3, 4, 12, 0): "VBAR_EL2 RVBAR_EL2 RMR_EL2",
    (3, 4, 12, 9): "- - - - - ICC_SRE_EL2",
    (3, 4, 12, 11): "ICH_HCR_EL2",
    (3, 4, 13, 0): "- CONTEXTIDR_EL2 TPIDR_EL2 - - - - SCXTNUM_EL2",
    (3, 4, 14, 0): "- - - CNTVOFF_EL2",
    (3, 4, 14, 1): "CNTHCTL_EL2",
    (3, 4, 14, 2): "CNTHP_TVAL_EL2 CNTHP_CTL_EL2 CNTHP_CVAL_EL2",
    (3, 4, 14, 3): "CNTHV_TVAL_EL2 CNTHV_CTL_EL2 CNTHV_CVAL_EL2",
    (3, 5, 1, 0): "SCTLR_EL12 - CPACR_EL12 SCTLR2_EL12",
    (3, 5, 1, 2): "ZCR_EL12 TRFCR_EL12 - - - - SMCR_EL12",
    (3, 5, 2, 0): "TTBR0_EL12 TTBR1_EL12 TCR_EL12 TCR2_EL12",
    (3, 5, 4, 0): "SPSR_EL12 ELR_EL12",
    (3, 5, 5, 1): "AFSR0_EL12 AFSR1_EL12",
    (3, 5, 5, 2): "ESR_EL12",
    (3, 5, 5, 6): "TFSR_EL12",
    (3, 5, 6, 0): "FAR_EL12",
    (3, 5, 9, 9): "PMSCR_EL12",
    (3, 5, 10, 2): "MAIR_EL12 - PIRE0_EL12 PIR_EL12 POR_EL12",
    (3, 5, 10, 3): "AMAIR_EL12",
    (3, 5, 12, 0): "VBAR_EL12",
    (3, 5, 13, 0): "- CONTEXTIDR_EL12 - - - - - SCXTNUM_EL12",
    (3, 5, 14, 1): "CNTKCTL_EL12",
    (3, 5, 14, 2): "CNTP_TVAL_EL02 CNTP_CTL_EL02 CNTP_CVAL_EL02",
    (3, 5, 14, 3): "CNTV_TVAL_EL02 CNTV_CTL_EL02 CNTV_CVAL_EL02",
    (3, 6, 1, 0): "SCTLR_EL3 ACTLR_EL3",
    (3, 6, 1, 1): "SCR_EL3 - CPTR_EL3",
    (3, 6, 1, 3): "- MDCR_EL3",
    (3, 6, 2, 0): "TTBR0_EL3 - TCR_EL3",
    (3, 6, 4, 0): "SPSR_EL3 ELR_EL3",
    (3, 6, 4, 1): "SP_EL2",
    (3, 6, 5, 2): "ESR_EL3",
    (3, 6, 6, 0): "FAR_EL3",
    (3, 6, 10, 2): "MAIR_EL3",
    (3, 6, 10, 3): "AMAIR_EL3",
    (3, 6, 12, 0): "VBAR_EL3 RVBAR_EL3 RMR_EL3",
    (3, 6, 12, 12): "- - - - ICC_CTLR_EL3 ICC_SRE_EL3 - ICC_IGRPEN1_EL3",
    (3, 6, 13, 0): "- - TPIDR_EL3",
}

PSTATE_FIELDS: dict[str, tuple[int, int]] = {
    "UAO": (0, 3),
    "PAN": (0, 4),
    "SPSEL": (0, 5),
    "SSBS": (3, 1),
    "DIT": (3, 2),
    "TCO": (3, 4),
    "DAIFSET": (3, 6),
    "DAIFCLR": (3, 7),
}
"""What MSR (immediate) can write, by (op1, op2); CRm is the value (C6.2 MSR (immediate))."""

SYSTEM_OPERATIONS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "dc": {
        "ZVA": (3, 7, 4, 1),
        "IVAC": (0, 7, 6, 1),
        "ISW": (0, 7, 6, 2),
        "CSW": (0, 7, 10, 2),
        "CISW": (0, 7, 14, 2),
        "CVAC": (3, 7, 10, 1),
        "CVAU": (3, 7, 11, 1),
        "CVAP": (3, 7, 12, 1),
        "CVADP": (3, 7, 13, 1),
        "CIVAC": (3, 7, 14, 1),
    },
    "ic": {"IALLUIS": (0, 7, 1, 0), "IALLU": (0, 7, 5, 0), "IVAU": (3, 7, 5, 1)},
    "at": {
        "S1E1R": (0, 7, 8, 0),
        "S1E1W": (0, 7, 8, 1),
        "S1E0R": (0, 7, 8, 2),
        "S1E0W": (0, 7, 8, 3),
        "S1E1RP": (0, 7, 9, 0),
        "S1E1WP": (0, 7, 9, 1),
        "S1E2R": (4, 7, 8, 0),
        "S1E2W": (4, 7, 8, 1),
        "S12E1R": (4, 7, 8, 4),
        "S12E1W": (4, 7, 8, 5),
        "S12E0R": (4, 7, 8, 6),
        "S12E0W": (4, 7, 8, 7),
        "S1E3R": (6, 7, 8, 0),
        "S1E3W": (6, 7, 8, 1),
    },
}
"""The SYS aliases other than TLBI, by (op1, CRn, CRm, op2) (C5.3, C5.4)."""

LEAST_EL = {0: 1, 1: 1, 2: 1, 3: 0, 4: 2, 5: 2, 6: 3, 7: 1}
"""The lowest exception level that has the system instructions with this op1 (C5.1)."""

_REDIRECTED_STEMS = (
    *("SCTLR", "SCTLR2", "TTBR0", "TTBR1", "TCR", "TCR2", "MAIR", "AMAIR", "PIRE0", "PIR", "POR"),
    *("SPSR", "ELR", "ESR", "FAR", "AFSR0", "AFSR1", "VBAR", "CONTEXTIDR", "SCXTNUM"),
    *("ZCR", "SMCR", "TRFCR", "TFSR", "PMSCR"),
)
_REDIRECTED = {f"{stem}_EL1": f"{stem}_EL2" for stem in _REDIRECTED_STEMS} | {
    "CPACR_EL1": "CPTR_EL2",
    "CNTKCTL_EL1": "CNTHCTL_EL2",
    **{
        f"CNT{timer}_{name}_EL0": f"CNTH{timer}_{name}_EL2"
        for timer in "PV"
        for name in ("TVAL", "CTL", "CVAL")
    },
}

TRANSLATION_REGISTERS = frozenset(
    f"{stem}_EL{el}"
    for el in (1, 2, 3)
    for stem in ("SCTLR", "SCTLR2", "TCR", "TCR2", "TTBR0", "TTBR1", "MAIR", "PIR", "PIRE0", "POR")
) | {"HCR_EL2", "HCRX_EL2", "SCR_EL3"}
"""Registers that control stage 1: a program that writes an unknown value to one is refused."""

_GENERIC = re.compile(r"S([0-3])_([0-7])_C(1[0-5]|[0-9])_C(1[0-5]|[0-9])_([0-7])")


@cache
def _by_encoding() -> dict[Encoding, str]:
    return {
        (*row, op2): name
        for row, names in SYSTEM_REGISTERS.items()
        for op2, name in enumerate(names.split())
        if name != "-"
    }


@cache
def _by_name() -> dict[str, Encoding]:
    return {name: encoding for encoding, name in _by_encoding().items()}


def register_at(encoding: Encoding) -> str:
    """The register at (op0, op1, CRn, CRm, op2): its Arm name, or the generic one."""
    op0, op1, crn, crm, op2 = encoding
    return _by_encoding().get(encoding, f"S{op0}_{op1}_C{crn}_C{crm}_{op2}")


def encoding_of(name: str) -> Encoding | None:
    """(op0, op1, CRn, CRm, op2) of a register by either kind of name, or None."""
    name = name.upper()
    generic = _GENERIC.fullmatch(name)
    if generic:
        op0, op1, crn, crm, op2 = map(int, generic.groups())
        return (op0, op1, crn, crm, op2) if op0 >= 2 else None
    return _by_name().get(name)


def register_name(name: str) -> str | None:
    """The one name of a register, from any spelling of it; None when there is no such register."""
    encoding = encoding_of(name)
    return None if encoding is None else register_at(encoding)


def redirected(name: str, el: int, e2h: bool) -> str | None:
    """The register that an access to *name* at *el* reaches.

    With HCR_EL2.E2H = 1 the EL1 names reach the EL2 registers at EL2, and the _EL12 and _EL02 names
    the EL1 and EL0 ones (D24, accessibility pseudocode of each register). None where the name is
    UNDEFINED: an _EL12 name without E2H or below EL2, or a name of a higher EL.
    """
    if name.endswith(("_EL12", "_EL02")):
        return name[:-1] if el >= 2 and e2h else None
    if (el < 3 and name.endswith("_EL3")) or (el < 2 and name.endswith("_EL2")):
        return None
    if el == 0 and LEAST_EL.get((encoding_of(name) or (3, 3))[1]):
        return None
    return _REDIRECTED.get(name, name) if el == 2 and e2h else name


@cache
def _operations() -> dict[tuple[int, int, int, int], tuple[str, str]]:
    return {
        encoding: (mnemonic, name)
        for mnemonic, table in SYSTEM_OPERATIONS.items()
        for name, encoding in table.items()
    }


def operation_encoding(encoding: tuple[int, int, int, int]) -> tuple[str, str] | None:
    """(mnemonic, name) of the DC, IC or AT that ``SYS`` with this encoding is, or None."""
    return _operations().get(encoding)
