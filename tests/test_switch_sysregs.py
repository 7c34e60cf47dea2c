"""System register and operation encodings, held against the GNU assembler."""

import gnu
from ttbr.switch.sysregs import (
    PSTATE_FIELDS,
    SYSTEM_OPERATIONS,
    SYSTEM_REGISTERS,
    TRANSLATION_REGISTERS,
    encoding_of,
    operation_encoding,
    redirected,
    register_at,
    register_name,
)
from ttbr.switch.tlbi import tlbi_by_encoding

# Newer than the assembler that the tests run with.
NEW = ("ID_AA64PFR2", "ID_AA64MMFR3", "ID_AA64MMFR4", "SCTLR2", "TCR2", "PIR", "POR", "VMALLWS2")


def compare(words: dict[str, int]) -> None:
    """Assemble each text and compare the word."""
    kept = {t: w for t, w in words.items() if not any(new in t for new in NEW)}
    assert len(kept) > 0.85 * len(words)
    image = gnu.image("\n".join(kept))
    found = [int.from_bytes(image[i : i + 4], "little") for i in range(0, len(image), 4)]
    assert [
        (text, hex(a), hex(b)) for (text, a), b in zip(kept.items(), found, strict=True) if a != b
    ] == []


def test_registers() -> None:
    words = {}
    for row, names in SYSTEM_REGISTERS.items():
        for op2, name in enumerate(names.split()):
            if name == "-":
                continue
            op0, op1, crn, crm = row
            place = (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
            words[f"mrs x3, {name}"] = 0xD530_0003 | place
            assert encoding_of(name) == (*row, op2)
            assert register_name(f"s{op0}_{op1}_c{crn}_c{crm}_{op2}") == name
    compare(words)


def test_operations() -> None:
    words = {}
    for mnemonic, table in SYSTEM_OPERATIONS.items():
        for name, (op1, crn, crm, op2) in table.items():
            place = op1 << 16 | crn << 12 | crm << 8 | op2 << 5
            operand = "" if name.startswith("IALLU") else ", x3"
            words[f"{mnemonic} {name}{operand}"] = 0xD508_0000 | place | (3 if operand else 31)
            assert operation_encoding((op1, crn, crm, op2)) == (mnemonic, name)
    compare(words)


def test_pstate_fields() -> None:
    compare(
        {
            f"msr {name}, #1": 0xD500_401F | op1 << 16 | 1 << 8 | op2 << 5
            for name, (op1, op2) in PSTATE_FIELDS.items()
        }
    )


def test_tlbi_operations() -> None:
    words = {}
    for op1 in range(8):
        for crm in range(16):
            for op2 in range(8):
                op = tlbi_by_encoding(op1, 8, crm, op2)
                if op is not None:
                    place = op1 << 16 | 8 << 12 | crm << 8 | op2 << 5
                    operand = ", x3" if op.operand else ""
                    words[f"tlbi {op.name}{operand}"] = 0xD508_0000 | place | (3 if operand else 31)
    compare(words)


def test_names() -> None:
    assert register_name("ttbr0_el2") == "TTBR0_EL2"
    assert register_name("S3_4_C2_C0_0") == "TTBR0_EL2"
    assert register_name("s3_0_c15_c2_7") == "S3_0_C15_C2_7"
    assert register_name("ttbr9_el2") is None
    assert register_name("s1_0_c7_c8_0") is None
    assert register_at((3, 0, 15, 0, 1)) == "S3_0_C15_C0_1"


def test_registers_of_the_proof_are_named() -> None:
    exists = {n for n in TRANSLATION_REGISTERS if encoding_of(n) is not None}
    for el in (1, 2):
        assert {f"{stem}_EL{el}" for stem in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR")} <= exists


def test_redirection() -> None:
    assert redirected("TCR_EL1", 2, True) == "TCR_EL2"
    assert redirected("TCR_EL1", 2, False) == "TCR_EL1"
    assert redirected("TCR_EL1", 1, True) == "TCR_EL1"
    assert redirected("TCR_EL12", 2, True) == "TCR_EL1"
    assert redirected("TCR_EL12", 2, False) is None
    assert redirected("TCR_EL2", 1, False) is None
    assert redirected("SCR_EL3", 2, False) is None
    assert redirected("CNTP_CTL_EL02", 2, True) == "CNTP_CTL_EL0"
    assert redirected("SP_EL1", 2, True) == "SP_EL1"
