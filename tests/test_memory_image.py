"""Opening images: cores, raw images, gzip, and what is none of these."""

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trees import elf_core, register_note
from ttbr.errors import InvalidError, TtbrError, UnreadableError
from ttbr.memory import image, open_image

CORE = elf_core([(0x1000, b"x" * 64)], register_note({"TTBR0_EL1": 0x1000}))


def write(folder: Path, data: bytes, name: str = "image") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_core(tmp_path: Path, packed: bool) -> None:
    opened = open_image(write(tmp_path, gzip.compress(CORE, mtime=0) if packed else CORE))
    assert (opened.kind, opened.registers.values) == ("ELF core", {"TTBR0_EL1": 0x1000})
    assert opened.memory.read(0x1000, 2) == b"xx"


@pytest.mark.parametrize("packed", [False, True])
def test_raw(tmp_path: Path, packed: bool) -> None:
    data = b"\0" * 64 + b"here"
    opened = open_image(
        write(tmp_path, gzip.compress(data, mtime=0) if packed else data), 0x4000_0000
    )
    assert (opened.kind, opened.registers.values) == ("raw", {})
    assert opened.memory.read(0x4000_0040, 4) == b"here"


def test_text_path(tmp_path: Path) -> None:
    assert open_image(str(write(tmp_path, CORE))).path == str(tmp_path / "image")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text\n" * 10, "not an ELF core; a raw image needs --base"),
        (b"\x7fEL", "not an ELF core"),
        (b"\x7fELF", "truncated ELF header"),
        (gzip.compress(b"", mtime=0), "the gzip file holds nothing"),
        (gzip.compress(CORE, mtime=0)[:-12], "damaged gzip file"),
        (gzip.compress(CORE, mtime=0)[:20], "damaged gzip file"),
        (gzip.compress(CORE, mtime=0) + b"junk", "damaged gzip file"),
        (b"\x1f\x8b", "damaged gzip file"),
        (b"\x1f\x8b" + b"\xff" * 100, "damaged gzip file"),
        (b"KDUMP   " + bytes(64), "a compressed kdump"),
        (b"makedumpfile" + bytes(64), "a flattened makedumpfile stream"),
        (b"EMiL" + bytes(64), "a LiME dump"),
        (b"QEVM" + bytes(64), "a QEMU migration stream"),
        (b"\xfd7zXZ\0" + bytes(64), "an xz archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(64), "a zstd archive"),
        (b"PK\x03\x04" + bytes(64), "a zip archive"),
        (b"BZh9" + bytes(64), "a bzip2 archive"),
        (gzip.compress(b"KDUMP   " + bytes(64), mtime=0), "a compressed kdump"),
    ],
)
def test_refused_in_one_line_with_the_name(tmp_path: Path, data: bytes, text: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(UnreadableError) as caught:
        open_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_gzip(tmp_path: Path) -> None:
    """Each damaged byte is found, or is padding that changes nothing."""
    packed = gzip.compress(CORE, mtime=0)
    refused = 0
    for at in range(10, len(packed)):
        data = bytearray(packed)
        data[at] ^= 0x10
        try:
            opened = open_image(write(tmp_path, bytes(data)))
        except UnreadableError:
            refused += 1
        else:
            assert opened.memory.read(0x1000, 64) == b"x" * 64
    assert refused > (len(packed) - 10) * 0.9


def test_gzip_bomb(tmp_path: Path) -> None:
    """A small file that unpacks without end is refused, holding no more than the limit."""
    path = write(tmp_path, gzip.compress(bytes(64 << 20), mtime=0))
    tracemalloc.start()
    with pytest.raises(UnreadableError, match=r"image: unpacks to more than 4 MiB"):
        image._unpack(str(path), 4 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert image.UNPACKED_LIMIT <= 1 << 30


@pytest.mark.parametrize(
    ("base", "text"), [(1 << 52, "beyond 52 bits"), ((1 << 52) - 1, "beyond"), (-1, "beyond")]
)
def test_base_beyond_the_address_space(tmp_path: Path, base: int, text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        open_image(write(tmp_path, b"raw bytes"), base)


def test_a_core_takes_no_base(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="drop --base"):
        open_image(write(tmp_path, CORE), 0x1000)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="No such file"):
        open_image(tmp_path / "none")
    with pytest.raises(UnreadableError, match="directory"):
        open_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_special_files(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="/dev/null: "):
        open_image("/dev/null")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300), st.sampled_from([None, 0, 0x4000_0000]))
def test_any_file(tmp_path: Path, data: bytes, base: int | None) -> None:
    for start in (b"", b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08"):
        path = write(tmp_path, start + data)
        try:
            opened = open_image(path, base)
        except TtbrError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert opened.kind in ("raw", "ELF core")
