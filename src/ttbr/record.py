"""Frozen, slotted value classes for what is imported at start.

`dataclasses` costs 22 ms of import (it brings `inspect`) and `typing` 12 ms, over an interpreter's
15 ms; one walk from the command line is to take at most three times that. `record` gives the part
that arch, memory and walk use: fields with defaults, equality by value, hash, repr, copies,
pickles, `replace`. Type checkers see an ordinary frozen dataclass.
"""

from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


__all__ = ["record", "replace"]


def _refuse(self: object, name: str, *_: object) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")


def _init(cls: type, names: tuple[str, ...], defaults: "dict[str, Any]") -> "Any":
    """``__init__`` that stores through the slots' own descriptors, as the class is frozen."""
    stores = [getattr(cls, name).__set__ for name in names]
    count = len(names)
    finish = getattr(cls, "__post_init__", None)
    place = {name: index for index, name in enumerate(names)}
    usual = tuple(defaults.get(name) for name in names)
    needed = [name for name in names if name not in defaults]
    # So many positional values are enough (fields without a default come first).
    enough = max((place[name] + 1 for name in needed), default=0)

    def complete(given: "tuple[Any, ...]", named: "dict[str, Any]") -> "list[Any]":
        first = len(given)
        values = [*given, *usual[first:]]
        right = first <= count and all(name in named for name in needed[first:])
        for name, value in named.items():
            index = place.get(name, -1)
            right = right and index >= first
            values[index] = value
        if not right:
            raise TypeError(f"{cls.__name__} takes {', '.join(names)}")
        return values

    def __init__(self: object, *given: object, **named: object) -> None:
        if named or not enough <= len(given) <= count:
            values: Any = complete(given, named)
        else:
            values = given + usual[len(given) :]
        for store, value in zip(stores, values, strict=True):
            store(self, value)
        if finish is not None:
            finish(self)

    return __init__


@dataclass_transform(frozen_default=True)
def record(cls: "type[T]") -> "type[T]":
    """Make *cls* a frozen value class whose fields are its annotations, in order.

    The `__hash__`, `__repr__` and `__replace__` of *cls* are kept where it has its own.
    """
    names = tuple(cls.__annotations__)
    body = {
        key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")
    }
    defaults = {name: body.pop(name) for name in names if name in body}
    made: Any = type(cls)(  # type: ignore[misc]
        cls.__name__,
        cls.__bases__,
        body | {"__slots__": names, "__qualname__": cls.__qualname__},
    )
    values = attrgetter(*names) if len(names) > 1 else lambda self: (getattr(self, names[0]),)

    def __eq__(self: object, other: object) -> bool:
        return type(other) is made and bool(values(self) == values(other))

    def __repr__(self: object) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{cls.__name__}({fields})"

    def __hash__(self: object) -> int:
        return hash(values(self))

    def __replace__(self: object, **changes: object) -> object:
        return made(**{name: getattr(self, name) for name in names} | changes)

    def __reduce__(self: object) -> object:
        return made, values(self)

    made.__init__ = _init(made, names, defaults)
    made.__match_args__ = names  # type: ignore[misc]
    made.__setattr__ = made.__delattr__ = _refuse
    made.__eq__, made.__reduce__ = __eq__, __reduce__
    for method in (__hash__, __repr__, __replace__):
        if method.__name__ not in body:
            setattr(made, method.__name__, method)
    return made  # type: ignore[no-any-return]


def replace(value: "T", **changes: object) -> "T":
    """A copy of record *value* with some fields changed."""
    return value.__replace__(**changes)  # type: ignore[attr-defined,no-any-return]
