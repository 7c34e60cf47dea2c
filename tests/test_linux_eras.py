"""Kernel versions and the tables of rules."""

from itertools import pairwise

import pytest

from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux import eras
from ttbr.linux.eras import Era, KernelVersion, era, known, rule, version


@pytest.mark.parametrize(
    ("text", "major", "minor"),
    [
        ("4.1", 4, 1),
        ("v5.15", 5, 15),
        ("6.12", 6, 12),
        ("6.1.176", 6, 1),
        ("6.12.107+deb13-arm64", 6, 12),
        ("5.4-rc3", 5, 4),
    ],
)
def test_a_version_is_its_release(text: str, major: int, minor: int) -> None:
    assert version(text) == KernelVersion(major, minor)


def test_versions_compare_as_numbers() -> None:
    assert version("4.9") < version("4.10") < version("5.0")
    assert str(version("6.12.107")) == "6.12"


@pytest.mark.parametrize("text", ["", "4", "four.one", "4.x", "4.1x", "4.1 5"])
def test_what_is_not_a_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="must look like"):
        version(text)


@pytest.mark.parametrize("text", ["2.6", "3.6", "7.1"])
def test_versions_without_known_rules_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        version(text)


def _tables() -> list[tuple[str, tuple[Era[object], ...]]]:
    return [
        (name, table)
        for name, table in vars(eras).items()
        if name.isupper() and isinstance(table, tuple) and isinstance(table[0], Era)
    ]


def test_there_are_tables() -> None:
    assert len(_tables()) >= 15


@pytest.mark.parametrize(("name", "table"), _tables())
def test_the_rows_of_a_table_leave_no_gap(name: str, table: tuple[Era[object], ...]) -> None:
    for before, after in pairwise(table):
        following = KernelVersion(before.last.major, before.last.minor + 1)
        assert after.first in (following, KernelVersion(before.last.major + 1, 0)), name
    assert table[-1].last == eras.NEWEST, name
    assert all(row.source for row in table), name


def test_no_row_before_the_first() -> None:
    assert known(eras.PKVM, version("5.12")) is None
    with pytest.raises(UnsupportedError, match=r"5\.12"):
        era(eras.PKVM, version("5.12"))
    assert rule(eras.HYP_PS, version("4.4")) == 40
