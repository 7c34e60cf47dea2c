"""What a strategy is: its plan for a board and a kernel, and what it plans from."""

from collections.abc import Callable
from dataclasses import dataclass

from ttbr.build import Attributes
from ttbr.linux.config import KernelConfig
from ttbr.linux.dualroot import Form
from ttbr.linux.eras import KernelVersion
from ttbr.linux.hyp import HypLayout
from ttbr.linux.hypspace import private_space
from ttbr.linux.idmap import Extension, extension, idmap_t0sz
from ttbr.linux.layout import LinearMap
from ttbr.linux.mappings import Section, hyp_idmap, hyp_regions
from ttbr.linux.sequences import Sequence, sequence
from ttbr.regions import Region

__all__ = ["Case", "Plan", "Regions", "Root", "Strategy"]

Regions = tuple[Region[Attributes], ...]


@dataclass(frozen=True, slots=True)
class Root:
    """A tree: `bits` is its input size, `regions` what it maps."""

    name: str
    bits: int
    regions: Regions

    @property
    def t0sz(self) -> int:
        return 64 - self.bits


@dataclass(frozen=True, slots=True)
class Plan:
    """What a strategy does for a board and a kernel, or in `why_not` why it cannot.

    `sections` is what EL2 maps for its run time. `roots` are in the order of use; with `skip` they
    are two parts of one root, walked with `boot_t0sz` first and then with `run_t0sz`. `runtime` is
    where the HYP init page is seen at run time, where ``target`` of the sequence runs. `room` is
    the size in bytes of the range for private mappings, None where the release has none. `config`
    has the release whose rules apply: another than asked for if the strategy did not exist then.
    """

    strategy: "Strategy"
    config: KernelConfig
    why_not: str = ""
    roots: tuple[Root, ...] = ()
    sections: Regions = ()
    hyp: HypLayout | None = None
    sequence: Sequence | None = None
    boot_t0sz: int = 0
    run_t0sz: int = 0
    runtime: int = 0
    skip: Form | None = None
    window: Region[Attributes] | None = None
    room: int | None = None
    needs: tuple[str, ...] = ()

    @property
    def applicable(self) -> bool:
        return not self.why_not


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration on a board with the rules of one release applied."""

    config: KernelConfig
    linear: LinearMap
    hyp: HypLayout
    sections: tuple[Section, ...]

    @property
    def bits(self) -> int:
        """The ID map's input size."""
        return 64 - idmap_t0sz(self.config)

    @property
    def narrow(self) -> int:
        return self.config.va_bits_actual

    @property
    def extension(self) -> Extension:
        return extension(self.config.granule, self.config.va_bits_min, self.bits)

    @property
    def slot(self) -> int:
        return self.hyp.idmap[0] >> self.config.va_bits_min

    @property
    def runtime(self) -> Regions:
        return hyp_regions(self.config, self.linear, self.hyp, self.sections)

    @property
    def idmap(self) -> Region[Attributes]:
        return hyp_idmap(self.config, self.hyp)

    @property
    def page_va(self) -> int:
        """The run-time address of the HYP init page."""
        return self.hyp.hyp_va(self.linear.to_virt(self.config.image.hyp))

    @property
    def room(self) -> int | None:
        space = private_space(self.config, self.hyp)
        return None if space is None else space.room

    def sequence(self, name: str) -> Sequence:
        return sequence(name, self.config.release)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy: the releases that shipped it (None: proposed only) and how it plans.

    `rules` are the releases whose layout rules it is planned with when it is asked for another.
    """

    name: str
    idea: str
    shipped: tuple[KernelVersion, KernelVersion] | None
    rules: tuple[KernelVersion, KernelVersion]
    make: Callable[["Strategy", Case], Plan]

    def ships_in(self, release: KernelVersion) -> bool:
        return self.shipped is not None and self.shipped[0] <= release <= self.shipped[1]
