"""The quirk table itself; that each row is true is the business of the comparison."""

import re

import pytest

from ttbr.emulate.quirks import ALLOWED, QUIRKS, WRONG, Quirk, quirks_of


def test_ids_are_unique_and_tell_whose_they_are() -> None:
    ids = [quirk.id for quirk in QUIRKS]
    assert len(ids) == len(set(ids))
    for quirk in QUIRKS:
        who = {"B": ("unicorn", "qemu"), "U": ("unicorn",), "Q": ("qemu",)}[quirk.id[0]]
        assert set(quirk.emulators) <= set(who)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.id)
def test_a_row_says_what_is_done_and_what_the_rule_is(quirk: Quirk) -> None:
    assert re.fullmatch(r"[BUQ]\d+", quirk.id)
    assert quirk.judgement in (ALLOWED, WRONG)
    assert quirk.does
    assert quirk.rule
    assert "  " not in quirk.does + quirk.rule


def test_rows_without_an_effect_are_known() -> None:
    assert {quirk.id for quirk in QUIRKS if not quirk.has_effect} == {"B2", "U7", "Q1"}


def test_quirks_of_one_emulator_keep_the_order_of_the_table() -> None:
    for emulator in ("unicorn", "qemu"):
        rows = quirks_of(emulator)
        assert list(rows) == [q for q in QUIRKS if q in rows]
        assert all(emulator in quirk.emulators for quirk in rows)
