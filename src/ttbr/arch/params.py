"""What a table walk needs to know of its tables: the Arm ARM's S1TTWParams and S2TTWParams.

`WalkParams` is made from registers by `ttbr.arch.regime`, or from plain values by `walk_params`.
"""

from ttbr.arch.bits import ones
from ttbr.arch.descriptors import OA_48, OA_64K_LPA, OA_LPA2, OutputFormat
from ttbr.arch.geometry import LAST_LEVEL, Granule, level_count, root_bytes
from ttbr.errors import InvalidError
from ttbr.record import record

__all__ = ["Level", "WalkParams", "walk_params"]


@record
class Level:
    """One lookup level of a walk: `mask` is of the index, `leaf_mask` of OA bits in place."""

    level: int
    shift: int
    mask: int
    leaf_mask: int
    may_be_block: bool


@record
class WalkParams:
    """How to walk the tables of one base register.

    `root` is the physical (with stage 2: intermediate physical) address of the root, low bits
    already ignored as the root's size demands. `input_bits` counts the resolved address bits.
    `output_bits` is the effective output size, min(TCR.PS, PAMax). `sh` is the shareability from
    TCR when DS=1, else None. `start_error` is set when a stage 2 start level is inconsistent: every
    walk is then a level 0 Translation fault. `levels` follows from the other fields unless it is
    given, and `replace` keeps it only where it was given.
    """

    name: str
    stage: int
    upper: bool
    root: int
    granule: Granule
    input_bits: int
    start_level: int
    form: OutputFormat
    output_bits: int
    sh: int | None = None
    hpd: bool = False
    ha: bool = False
    hd: bool = False
    epd: bool = False
    e0pd: bool = False
    tbi: bool = False
    tbid: bool = False
    el0: bool = False
    mair: int = 0
    wxn: bool = False
    pan3: bool = False
    xnx: bool = True
    fwb: bool = False
    secure: bool = False
    start_error: str = ""
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        if not self.levels:
            type(self).levels.__set__(self, self._own_levels())  # type: ignore[attr-defined]

    def __replace__(self, **changes: object) -> "WalkParams":
        fields = {name: getattr(self, name) for name in self.__match_args__}
        if self.levels == self._own_levels():
            fields["levels"] = ()
        return WalkParams(**fields | changes)  # type: ignore[arg-type]

    def _own_levels(self) -> tuple[Level, ...]:
        g, wide = self.granule, self.form.wide
        rows = []
        for level in range(self.start_level, LAST_LEVEL + 1):
            shift = g.level_shift(level)
            width = max(self.input_bits - shift, 0) if level == self.start_level else g.stride
            may_be_block = level == LAST_LEVEL or g.may_be_block(level, wide)
            rows.append(Level(level, shift, ones(width), self.form.low_mask(shift), may_be_block))
        return tuple(rows)

    def __repr__(self) -> str:
        size = f"{self.granule.name}, {self.input_bits} bits"
        return f"WalkParams({self.name}, {size}, root {self.root:#x})"

    @property
    def base(self) -> int:
        """The lowest address of the range: 0, or 2^64 - 2^input_bits for the upper range."""
        return (1 << 64) - (1 << self.input_bits) if self.upper else 0

    @property
    def root_size(self) -> int:
        """Bytes of the root (of all concatenated tables at stage 2)."""
        return root_bytes(self.granule, self.input_bits, self.start_level)

    @property
    def root_entries(self) -> int:
        return self.root_size // 8


def walk_params(
    name: str,
    granule: Granule,
    input_bits: int,
    root: int,
    *,
    stage: int = 1,
    upper: bool = False,
    ds: bool = False,
    lpa: bool = False,
    output_bits: int | None = None,
    start: int | None = None,
    **flags: object,
) -> WalkParams:
    """`WalkParams` from plain values: for tables without registers, and for building.

    *ds* selects the FEAT_LPA2 format of 4K and 16K, *lpa* the FEAT_LPA format of 64K. *root* is
    used as it is. *start* is the start level of stage 2; stage 1 derives it. `InvalidError` for an
    *input_bits* that has no levels.
    """
    form = OA_48
    if granule.shift == 16:
        form = OA_64K_LPA if lpa else OA_48
    elif ds:
        form = OA_LPA2
    most = 52 if form.wide or granule.shift == 16 else 48
    if not granule.shift < input_bits <= most:
        raise InvalidError(
            f"{name}: input_bits={input_bits} is out of range: {granule.shift + 1} to {most} "
            f"with the {granule.name} granule"
        )
    start_level = LAST_LEVEL + 1 - level_count(granule, input_bits) if start is None else start
    return WalkParams(
        name,
        stage,
        upper,
        root,
        granule,
        input_bits,
        start_level,
        form,
        form.address_bits if output_bits is None else output_bits,
        **flags,  # type: ignore[arg-type]
    )
