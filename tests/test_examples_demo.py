"""The demo: its commands can be typed again, and README.md shows what it prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from captures import ROOT
from emulate_tables import needs_unicorn
from test_docs import refresh

pytestmark = needs_unicorn


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo prints when it is started somewhere else and its output is no terminal."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def commands(text: str) -> list[str]:
    return re.findall(r"^\$ (.*)", text, re.MULTILINE)


def test_it_is_plain_text_without_paths_of_its_own(told: str) -> None:
    assert "\x1b" not in told
    assert "/tmp" not in told
    assert str(ROOT) not in told
    assert re.search(r"\n\(\d+\.\d s\)\n$", told)


def test_its_commands_do_the_same_when_they_are_typed(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refresh.prepare(tmp_path, "")
    typed = commands(told)
    assert len(typed) > 10
    for command in typed:
        printed, status = refresh.run(command)
        assert status != 2, printed
        assert f"$ {command}\n{printed}" in told


def test_readme_shows_what_it_prints(told: str) -> None:
    """Every example of README.md is one of the demo's, and tests/test_docs.py compares its output."""
    shown = commands((ROOT / "README.md").read_text())
    assert set(shown) <= set(commands(told))
    assert commands(told)[0] == shown[0]
