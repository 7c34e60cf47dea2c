"""Value classes: what a frozen, slotted dataclass does, `record` does."""

import copy
import pickle
import subprocess
import sys

import pytest

from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import walk_params
from ttbr.errors import MemoryFault
from ttbr.record import record, replace
from ttbr.walk import READ, Access


@record
class Point:
    x: int
    y: int = 2

    @property
    def total(self) -> int:
        return self.x + self.y


@record
class One:
    only: int


def test_fields_by_position_and_name() -> None:
    assert Point(1) == Point(x=1, y=2)
    assert Point(1, 5).total == 6
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, z=3)  # type: ignore[call-arg]


def test_frozen_and_slotted() -> None:
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 1  # type: ignore[attr-defined]
    assert not hasattr(point, "__dict__")


def test_equal_by_value_and_by_type() -> None:
    assert Point(1) == Point(1)
    assert Point(1) != Point(1, 3)
    other: object = Point(1)
    assert One(1) != other
    assert len({Point(1), Point(1, 2), Point(2)}) == 2
    assert One(4) == One(4)
    assert hash(One(4)) == hash(One(4))


def test_repr_and_match() -> None:
    assert repr(Point(1)) == "Point(x=1, y=2)"
    match Point(7):
        case Point(x, y):
            assert (x, y) == (7, 2)


def test_replace_keeps_the_rest() -> None:
    point = Point(1, 3)
    assert replace(point, x=9) == Point(9, 3)
    assert point == Point(1, 3)
    with pytest.raises(TypeError):
        replace(point, z=1)


def test_replace_does_not_keep_what_was_derived() -> None:
    """The levels follow from the input size: a copy with another size has other levels."""
    wide = walk_params("T", GRANULES["4K"], 48, 0x1000)
    narrow = replace(wide, input_bits=39, start_level=1)
    assert narrow == walk_params("T", GRANULES["4K"], 39, 0x1000)
    assert [row.level for row in narrow.levels] == [1, 2, 3]


@pytest.mark.parametrize(
    "value",
    [READ, GRANULES["4K"], walk_params("T", GRANULES["4K"], 48, 0), Fault(FaultKind.PERMISSION, 3)],
    ids=lambda v: type(v).__name__,
)
def test_values_hash_and_copy(value: object) -> None:
    assert isinstance(hash(value), int)
    assert copy.copy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(MemoryFault(0x1000, 8)))
    assert (error.address, error.size, str(error)) == (
        0x1000,
        8,
        "0x1000: no memory there (read of 8 bytes)",
    )


def test_methods_of_the_class_win() -> None:
    assert repr(walk_params("TTBR0_EL1", GRANULES["4K"], 48, 0x1000)).startswith("WalkParams(TTBR0")
    assert Access("x", 8).el0


def test_one_walk_imports_nothing_heavy() -> None:
    """What one walk imports brings none of the slow modules."""
    code = (
        "import sys, ttbr.walk, ttbr.memory, ttbr.arch.regime;"
        "print(*[m for m in ('dataclasses', 'inspect', 'typing', 'numpy', 'json', 'gzip', 're',"
        "'argparse', 'elftools', 'capstone', 'unicorn') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == []
