"""The console examples in the documents print what the documents say."""

import re
import shlex
from pathlib import Path

import pytest

from ttbr.cli import main

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str, str]]:
    """(document, command, output) of each ``$ ttbr`` in a console block; ``...`` cuts the rest."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in BLOCK.findall(path.read_text()):
            for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = piece.partition("\n")
                found.append((path.name, command, output))
    return found


@pytest.mark.parametrize(
    ("document", "command", "output"), examples(), ids=lambda value: str(value)[:60]
)
def test_example(
    document: str,
    command: str,
    output: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    assert words[0] == "ttbr", document
    main(words[1:])
    printed = capsys.readouterr().out.rstrip("\n")
    wanted = output.rstrip("\n")
    if wanted.endswith("\n..."):
        wanted = wanted.removesuffix("\n...")
        printed = printed[: len(wanted)]
    assert printed == wanted
