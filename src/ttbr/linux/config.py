"""A kernel's configuration, checked once: page size, VA_BITS, PA_BITS, release, image placement."""

from collections.abc import Iterable
from dataclasses import dataclass

from ttbr.arch.geometry import Granule, granule
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.eras import (
    MEMSTART_CHOSEN,
    SELECTABLE,
    TEXT_OFFSET,
    VHE,
    WIDE_PA,
    KernelVersion,
    rule,
    version,
)

__all__ = ["BASE_ALIGN", "Image", "KernelConfig", "check_placement", "configure", "default_image"]

BASE_ALIGN = 2 << 20
"""The boundary above which an image starts by TEXT_OFFSET (Documentation/arch/arm64/booting)."""

# A size to take when none is given; _end is a multiple of 64 KiB, seldom of 2 MiB.
IMAGE_SIZE = (16 << 20) - (64 << 10)


@dataclass(frozen=True, slots=True)
class Image:
    """Where the kernel image is in physical memory: [`start`, `end`) is [_text, _end).

    `text` is the page of `.idmap.text` (the code that turns the EL1 MMU on), `hyp` that of
    `.hyp.idmap.text` (the code that turns the EL2 MMU on): both are inside the image.
    """

    start: int
    end: int
    text: int
    hyp: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InvalidError(f"image: end {self.end:#x} is not above start {self.start:#x}")
        for name, page in (("idmap text", self.text), ("HYP idmap text", self.hyp)):
            if not self.start <= page < self.end:
                raise InvalidError(
                    f"{name} {page:#x} is outside the image {self.start:#x}-{self.end:#x}"
                )


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """A kernel on a CPU. `configure` makes one from plain values.

    `va52` says that the CPU has the 52-bit VAs that `va_bits` of 52 asks for (FEAT_LVA with 64K
    pages, FEAT_LPA2 with 4K and 16K); without, such a kernel falls back to `va_bits_min`. `kaslr`
    is RANDOMIZE_BASE, `hotplug` HOTPLUG_CPU, `vhe` a kernel that runs at EL2.
    """

    release: KernelVersion
    granule: Granule
    va_bits: int
    pa_bits: int
    image: Image
    va52: bool = False
    vhe: bool = False
    kaslr: bool = False
    hotplug: bool = True

    def __post_init__(self) -> None:
        name = self.granule.name
        offered = SELECTABLE.get((name, self.va_bits))
        if offered is None:
            legal = ", ".join(str(bits) for page, bits in SELECTABLE if page == name)
            raise InvalidError(f"VA_BITS {self.va_bits}: {name} pages allow {legal}")
        if self.release not in offered:
            raise UnsupportedError(
                f"VA_BITS {self.va_bits} with {name} pages: since Linux {offered.first}, "
                f"not in {self.release}"
            )
        if self.vhe and self.release not in VHE:
            raise UnsupportedError(f"VHE: since Linux {VHE.first}, not in {self.release}")
        self._check_pa_bits()
        if self.image.end > 1 << self.pa_bits:
            raise InvalidError(
                f"image end {self.image.end:#x} is beyond the {self.pa_bits}-bit physical addresses"
            )
        if self.image.start & (self.granule.size - 1):
            raise InvalidError(f"image {self.image.start:#x} is not aligned to a {name} page")

    def _check_pa_bits(self) -> None:
        if self.pa_bits not in (48, 52):
            raise InvalidError(f"PA_BITS {self.pa_bits}: must be 48 or 52")
        wide = WIDE_PA[self.granule.name]
        if self.pa_bits == 52 and self.release not in wide:
            raise UnsupportedError(
                f"PA_BITS 52 with {self.granule.name} pages: since Linux {wide.first}, "
                f"not in {self.release}"
            )
        if self.pa_bits == 52 and self.granule.name != "64K" and self.va_bits != 52:
            raise InvalidError(
                f"PA_BITS 52 with {self.granule.name} pages needs VA_BITS 52, not {self.va_bits}"
            )

    @property
    def va_bits_min(self) -> int:
        """VA_BITS_MIN: what a kernel with 52 bits falls back to (48; 47 with 16K pages)."""
        if self.va_bits != 52:
            return self.va_bits
        return 47 if self.granule.name == "16K" else 48

    @property
    def va_bits_actual(self) -> int:
        """vabits_actual: the size of the kernel's half of the address space on this CPU."""
        return 52 if self.va_bits == 52 and self.va52 else self.va_bits_min

    @property
    def text_offset(self) -> int:
        """Bytes of the image's start above its 2 MiB boundary."""
        return rule(TEXT_OFFSET, self.release)


def _middle(start: int, end: int) -> int:
    """A page inside an image, for idmap text: 64 KiB aligned from its start, for any granule."""
    return start + ((end - start) // 2 & -(64 << 10))


def default_image(memory: Iterable[tuple[int, int]], release: str, page: str) -> int:
    """Where the image of Linux *release* is put when nobody says: TEXT_OFFSET above a boundary.

    *memory* is RAM as ``(start, size)`` in bytes; the first window with room for an image of the
    default size is taken, in whole pages of granule *page*. `InvalidError` when none has room.
    """
    size, offset = granule(page).size, rule(TEXT_OFFSET, version(release))
    windows = sorted(memory)
    if not windows:
        raise InvalidError("the board has no RAM")
    for start, length in windows:
        image = -(-start // BASE_ALIGN) * BASE_ALIGN + offset
        if image + IMAGE_SIZE <= (start + length) & -size:
            return image
    raise InvalidError(f"no window of RAM has room for an image of {IMAGE_SIZE:#x} bytes")


def check_placement(config: KernelConfig) -> None:
    """`UnsupportedError` up to 4.5 for an image that is not TEXT_OFFSET above a 2 MiB boundary.

    PHYS_OFFSET followed the image then: from elsewhere the linear map would be wrong.
    """
    early = not rule(MEMSTART_CHOSEN, config.release)
    if early and (config.image.start - config.text_offset) % BASE_ALIGN:
        raise UnsupportedError(
            f"image {config.image.start:#x}: Linux {config.release} must start "
            f"{config.text_offset:#x} above a boundary of {BASE_ALIGN:#x}"
        )


def configure(
    release: str,
    page: str,
    va_bits: int,
    image: int,
    *,
    image_end: int | None = None,
    idmap_text: int | None = None,
    hyp_text: int | None = None,
    pa_bits: int = 48,
    va52: bool = False,
    vhe: bool = False,
    kaslr: bool = False,
    hotplug: bool = True,
) -> KernelConfig:
    """The configuration of Linux *release* with its image at physical address *image*.

    Without *image_end* the image is taken as nearly 16 MiB long; without *idmap_text* both idmap
    pages are taken as one in the middle of the image, without *hyp_text* the HYP one is that of
    *idmap_text*.
    `InvalidError` and `UnsupportedError` say what no such kernel can be.
    """
    end = image + IMAGE_SIZE if image_end is None else image_end
    text = _middle(image, end) if idmap_text is None else idmap_text
    placed = Image(image, end, text, text if hyp_text is None else hyp_text)
    return KernelConfig(
        version(release), granule(page), va_bits, pa_bits, placed, va52, vhe, kaslr, hotplug
    )
