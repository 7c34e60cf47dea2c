"""What the tables mean: translate one address, or list all mappings. The only traversal.

`translate` answers for one address and one access with every step; `runs` lists a whole half;
`address_translate` is the AT instruction. All of them read descriptors the same way.
"""

from ttbr.walk.translate import (
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EXECUTE,
    READ,
    WRITE,
    Access,
    Leaf,
    Mapping,
    Step,
    translate,
    translate_stage2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ttbr.walk.at import AT_OPERATIONS, address_translate
    from ttbr.walk.iterate import Hole, Run, TableCount, Unreadable, combine, runs

__all__ = [
    "AT_OPERATIONS",
    "EL0_EXECUTE",
    "EL0_READ",
    "EL0_WRITE",
    "EXECUTE",
    "READ",
    "WRITE",
    "Access",
    "Hole",
    "Leaf",
    "Mapping",
    "Run",
    "Step",
    "TableCount",
    "Unreadable",
    "address_translate",
    "combine",
    "runs",
    "translate",
    "translate_stage2",
]

_ELSEWHERE = {
    "AT_OPERATIONS": "at",
    "address_translate": "at",
    "Hole": "iterate",
    "Run": "iterate",
    "TableCount": "iterate",
    "Unreadable": "iterate",
    "combine": "iterate",
    "runs": "iterate",
}


def __getattr__(name: str) -> object:
    """Names that one walk does not need, imported when they are asked for."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
