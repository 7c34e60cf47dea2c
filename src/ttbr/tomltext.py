"""TOML of files: parsed within limits, and values quoted for it."""

import json

from ttbr.errors import UnreadableError

__all__ = ["MAX_LINE", "parse_toml", "quoted"]

MAX_LINE = 2000
"""Characters of a line: the time of `tomllib` is quadratic in the length of a dotted key."""


def parse_toml(text: str, source: str, most: int) -> dict[str, object]:
    """The TOML document *text* of at most *most* characters.

    `UnreadableError`, with the file's name *source*, when it is none or too large.
    """
    import tomllib

    if len(text) > most or max(map(len, text.split("\n"))) > MAX_LINE:
        raise UnreadableError(
            f"{source}: more than {most} characters of TOML, or {MAX_LINE} in a line"
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{source}: not TOML: {error or 'nested too deeply'}") from None


def quoted(value: str | int | bool) -> str:
    """*value* as TOML writes it."""
    # JSON writes these as TOML does, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
