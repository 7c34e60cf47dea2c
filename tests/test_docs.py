"""The documents: what their examples print, what the scenario reference lists, what they refer to."""

import contextlib
import importlib.util
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from captures import ROOT
from emulate_tables import needs_qemu, needs_unicorn
from ttbr.boards.toml import TEXTS, WINDOWS
from ttbr.build.attributes import _TYPES, MEMORY
from ttbr.errors import InvalidError
from ttbr.linux.sequences import SEQUENCES
from ttbr.regions import NUMBERS
from ttbr.switch.judge import KINDS
from ttbr.switch.problem import ASSUMPTIONS, BBM_LEVELS
from ttbr.switch.prove import SAFE, prove_all
from ttbr.switch.scenario import Expectation, parse_scenario
from ttbr.switch.scenario_tables import REGIMES

SHAREABILITY = ("NSH", "OSH", "ISH")


def loaded(path: Path) -> ModuleType:
    """The module in the file *path*."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


refresh = loaded(ROOT / "docs" / "refresh.py")
SCENARIOS = ROOT / "docs" / "scenarios.md"
NEEDS = {"ttbr run": (needs_unicorn,), "ttbr verify": (needs_unicorn, needs_qemu)}


def examples(language: str) -> list[Any]:
    """(document, block) for each block in *language*, with what its commands need."""
    found = []
    for path in refresh.DOCUMENTS:
        for block in refresh.blocks(path.read_text()):
            if block.language == language:
                typed = [command for command, _ in block.commands]
                marks = [
                    mark
                    for start, needed in NEEDS.items()
                    if any(command.startswith(start) for command in typed)
                    for mark in needed
                ]
                name = f"{path.name}:{block.line}"
                found.append(pytest.param(path, block, id=name, marks=marks))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_an_example() -> None:
    for path in refresh.DOCUMENTS:
        text = path.read_text()
        languages = {block.language for block in refresh.blocks(text)}
        assert languages <= {"console", "python", "toml"}, path
        assert text.count("```") == 2 * len(refresh.blocks(text)), path


@pytest.mark.parametrize(("document", "block"), examples("console"))
def test_console_example(document: Path, block: Any, folder: Path) -> None:
    """It prints what the document shows; ``python docs/refresh.py`` writes that anew."""
    refresh.prepare(folder, document.read_text())
    assert block.text.startswith("$ ")
    status = 0
    for command, shown in block.commands:
        printed, status = refresh.run(command, status)
        assert refresh.shortened(printed, shown) == shown, command


@pytest.mark.parametrize(("document", "block"), examples("python"))
def test_python_example(document: Path, block: Any, folder: Path) -> None:
    """Its comments are what it prints."""
    refresh.prepare(folder, document.read_text())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, f"{document.name}:{block.line}", "exec"), {})
    assert printed.getvalue().splitlines() == re.findall(r"# (.*)", block.text)


@pytest.mark.parametrize(("document", "block"), examples("toml"))
def test_toml_example(document: Path, block: Any) -> None:
    """A named one is used by a command, and a scenario proves as it expects; others stand in a
    shipped one."""
    text = document.read_text()
    named = refresh.NAMED.match(block.text)
    if named is None:
        assert any(block.text in file.read_text() for file in SHIPPED)
        return
    assert re.search(rf"^\$ ttbr .*{re.escape(named[1])}", text, re.MULTILINE)
    if "[intent]" in block.text:
        scenario = parse_scenario(block.text, named[1], str(ROOT))
        proof = prove_all(scenario.problem)
        expected = scenario.expected or Expectation((SAFE,), frozenset())
        assert (proof.result.kinds or (SAFE,)) == expected.verdict
        assert set(proof.assuming) == expected.assuming


SHIPPED = sorted((ROOT / "examples").glob("*/*.toml"))


# --- the reference of scenarios ----------------------------------------------------------------

SMALLEST = next(b.text for b in refresh.blocks(SCENARIOS.read_text()) if b.language == "toml")
# A heading's name -> the smallest scenario changed so that the reader lists the keys it knows.
LISTED = {
    "Top level": ("title =", "zz = 1\ntitle ="),
    "[expect]": ("[intent]", "[expect]\nzz = 1\n[intent]"),
    "[region]": ('access = "rx"', "zz = 1"),
    "[table.NAME]": ("[table.boot]", "[table.boot]\nzz = 1"),
    "[descriptor]": ("[intent]", "[descriptor]\na = { value = 1, zz = 1 }\n[intent]"),
    "[descriptor] next": (
        "[intent]",
        '[descriptor]\na = { table = "boot", next = "boot", zz = 1 }\n[intent]',
    ),
    "[place]": ("[intent]", '[place]\na = { table = "boot", va = 0, zz = 1 }\n[intent]'),
    "[memory]": ("[intent]", "[memory]\nzz = 1\n[intent]"),
    "[program]": ("[program]", "[program]\nzz = 1"),
    "[intent]": ("[intent]", "[intent]\nzz = 1"),
    "[options]": ("[intent]", "[options]\nzz = 1\n[intent]"),
}
# What the reader takes without a list of it.
OTHERS = {
    "[region]": ("va", "pa", "size", "regime"),
    "[descriptor]": ("pa", "block", "contiguous"),
    "[registers]": ("from", "capture", "mmu", "register", "PAN", "NZCV", "SPSEL", "sp"),
}


def known_keys(old: str, new: str) -> list[str]:
    """The keys that the reader lists when one is unknown."""
    assert old in SMALLEST
    with pytest.raises(InvalidError, match="zz") as caught:
        parse_scenario(SMALLEST.replace(old, new, 1), "s.toml")
    found = re.search(r"(?:there are|known:) ([\w, ]+)", str(caught.value))
    assert found is not None, caught.value
    return found[1].split(", ")


def part_of(heading: str) -> str:
    """The part of the reference under a heading."""
    for part in re.split(r"^## ", SCENARIOS.read_text(), flags=re.MULTILINE)[1:]:
        if part.startswith((heading, f"`{heading}`")):
            return part
    raise AssertionError(heading)


@pytest.mark.parametrize("heading", LISTED)
def test_reference_has_every_key(heading: str) -> None:
    part = part_of(heading.split(" ")[0] if heading[0] == "[" else heading)
    for key in known_keys(*LISTED[heading]):
        assert re.search(rf"`(\[\[)?{key}(\]\])?`", part), key


@pytest.mark.parametrize("heading", OTHERS)
def test_reference_has_the_other_keys(heading: str) -> None:
    for key in OTHERS[heading]:
        assert f"`{key}`" in part_of(heading), key


def test_reference_has_no_other_key() -> None:
    """Each row of a table of keys names keys that the reader takes."""
    for heading, change in LISTED.items():
        if " next" in heading or heading == "[descriptor]":
            continue
        known = {*known_keys(*change), *OTHERS.get(heading, ())}
        rows = re.findall(r"^\| (`.*?) \|", part_of(heading), re.MULTILINE)
        keys = {key for row in rows for key in re.findall(r"`([^`]*)`", row)}
        assert keys - {*ASSUMPTIONS} <= known, heading


@pytest.mark.parametrize(
    "values",
    [REGIMES, MEMORY, SHAREABILITY, SEQUENCES, BBM_LEVELS, ASSUMPTIONS, KINDS],
    ids=["regime", "memory", "shareability", "linux", "bbm", "assumption", "kind"],
)
def test_reference_has_every_value(values: Iterable[str]) -> None:
    text = SCENARIOS.read_text()
    assert [value for value in values if f"`{value}`" not in text] == []


# --- the reference of the other files -----------------------------------------------------------

FILES = ROOT / "docs" / "files.md"
# Heading -> the keys that its reader takes.
FILE_KEYS: dict[str, set[str]] = {
    "Regions": {"page", *NUMBERS, "name", *_TYPES},
    "Boards": {"name", "notes", *TEXTS, *WINDOWS, "start", "size", "last"},
    "Registers": {"sysregs", "el", "core", "cpsr"},
}


@pytest.mark.parametrize("heading", FILE_KEYS)
def test_file_reference_has_every_key(heading: str) -> None:
    """And no other: the keys are the first words in code of the rows of its tables."""
    parts = re.split(r"^## ", FILES.read_text(), flags=re.MULTILINE)[1:]
    (part,) = [part for part in parts if part.startswith(heading)]
    rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    keys = {key.strip("[]") for row in rows for key in re.findall(r"`([^`]*)`", row)}
    assert keys <= FILE_KEYS[heading]
    assert [key for key in FILE_KEYS[heading] if not re.search(rf"`\[*{key}\]*`", part)] == []


def test_file_reference_has_every_memory_type() -> None:
    text = FILES.read_text()
    assert [name for name in MEMORY if f"`{name}`" not in text] == []


# --- what the documents refer to ---------------------------------------------------------------

PROSE = (*refresh.DOCUMENTS, ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_files_and_targets_exist(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"`((?:docs|examples|tests|bench|changes)/[^`\s*]*)`", text):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make (\w+)", text, re.MULTILINE)) <= set(targets)
