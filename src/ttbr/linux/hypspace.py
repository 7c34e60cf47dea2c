"""What else is in the HYP address space: private mappings, vectors, and pKVM's own regions."""

from dataclasses import dataclass
from enum import Enum

from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import HYP_PRIVATE, PKVM, known, rule
from ttbr.linux.hyp import HypLayout
from ttbr.linux.layout import Region

__all__ = [
    "PkvmSpace",
    "PrivateSpace",
    "VectorKind",
    "pkvm_space",
    "private_space",
    "vector_address",
]

VECTORS_SIZE = 2048


@dataclass(frozen=True, slots=True)
class PrivateSpace:
    """The HYP addresses for MMIO, vectors and stacks: from `top` down to `floor`."""

    top: int
    floor: int

    @property
    def room(self) -> int:
        return self.top - self.floor

    def allocate(self, next_base: int, size: int, page: int) -> int:
        """The base of *size* bytes put below *next_base*; `InvalidError` where it is -ENOMEM."""
        base = next_base - -(-size // page) * page
        if base < self.floor:
            raise InvalidError(
                f"HYP private range: {size:#x} bytes below {next_base:#x} would pass "
                f"{self.floor:#x} into the other half (-ENOMEM)"
            )
        return base


def private_space(config: KernelConfig, hyp: HypLayout) -> PrivateSpace | None:
    """The private range below the ID map (e3f019b37b58), or None before 4.17.

    It ends where bit VA_BITS - 1 of the address would change. Before 4.17 such mappings were at
    kern_hyp_va of their vmalloc address.
    """
    if not rule(HYP_PRIVATE, config.release):
        return None
    top = hyp.idmap[0]
    return PrivateSpace(top, top & -(1 << (config.va_bits - 1)))


@dataclass(frozen=True, slots=True)
class PkvmSpace:
    """pKVM's quarter of the HYP space: I/O from `io`, upwards to `vmemmap`, and that to `end`.

    `linear` is the part of [`io`, `end`) that the linear map's HYP range covers too, if any.
    """

    io: int
    vmemmap: int
    end: int
    linear: Region | None


def pkvm_space(config: KernelConfig, hyp: HypLayout) -> PkvmSpace:
    """hyp_create_idmap: where pKVM puts private mappings and its page structures.

    `UnsupportedError` before 5.13 and with VHE.
    """
    if known(PKVM, config.release) is None or config.vhe:
        raise UnsupportedError(
            f"pKVM: since Linux {PKVM[0].first} and without VHE, not in {config.release}"
            f"{' with VHE' if config.vhe else ''}"
        )
    quarter = 1 << (hyp.hyp_va_bits - 2)
    io = (hyp.idmap[0] & quarter) ^ quarter
    vmemmap = io | quarter >> 1
    end = io + quarter
    low, high = max(io, hyp.first), min(end, hyp.last + 1)
    return PkvmSpace(io, vmemmap, end, (low, high) if low < high else None)


class VectorKind(Enum):
    """Which vectors EL2 runs a guest with (enum arm64_hyp_spectre_vector)."""

    DIRECT = "__kvm_hyp_vector"
    SPECTRE_DIRECT = "a slot of __bp_harden_hyp_vecs"
    INDIRECT = "a slot in the private range, against CVE-2018-3640 (Spectre-v3a)"


def vector_address(
    kind: VectorKind, hyp: HypLayout, base: int, slot: int = 0, private: int | None = None
) -> int:
    """The HYP address of a guest's vectors (kvm_get_hyp_vector).

    *base* is the linear alias of `__kvm_hyp_vector` or of `__bp_harden_hyp_vecs`. INDIRECT
    vectors are mapped at *private*, next to the ID map, so that VBAR_EL2 hides the tag.
    """
    if kind is VectorKind.INDIRECT:
        if private is None:
            raise InvalidError("indirect HYP vectors: the private address is needed")
        return private + slot * VECTORS_SIZE
    return hyp.hyp_va(base) + slot * VECTORS_SIZE
