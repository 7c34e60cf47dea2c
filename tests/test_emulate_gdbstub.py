"""The GDB client against a fake stub that misbehaves, and against QEMU."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulate_qemu import CODE, paused_qemu
from emulate_tables import needs_qemu
from ttbr.emulate.assembler import words
from ttbr.emulate.gdbstub import GdbStub, connect
from ttbr.errors import InvalidError, MemoryFault, TtbrError

TARGET = (
    '<?xml version="1.0"?><target><xi:include href="core.xml"/><xi:include href="s.xml"/></target>'
)
CORE = (
    '<feature><reg name="x0" bitsize="64" type="int"/>\n<reg name="pc" bitsize="64"/>'
    '<reg name="cpsr" bitsize="32" regnum="7"/><reg name="after" bitsize="32"/></feature>'
)
SYSTEM = '<feature><reg name="TTBR0_EL1" bitsize="64" regnum="100"/></feature>'
FILES = {"target.xml": TARGET, "core.xml": CORE, "s.xml": SYSTEM}


def packet(data: str) -> bytes:
    raw = data.encode("latin-1")
    return b"$%s#%02x" % (raw, sum(raw) & 0xFF)


def answer(request: str) -> str:
    """What an honest stub answers."""
    if request.startswith("qSupported"):
        return "PacketSize=1000;qXfer:features:read+"
    if request.startswith("qXfer"):
        name, _, place = request.removeprefix("qXfer:features:read:").partition(":")
        offset, _, _ = place.partition(",")
        text = FILES[name][int(offset, 16) :]
        return ("m" if len(text) > 60 else "l") + text[:60]
    if request == "p64":
        return "0000008040000000"  # least significant byte first
    if request == "p7":
        return "cd030000"
    if request == "Qqemu.PhyMemMode:1":
        return "OK"
    if request.startswith("m"):
        at, size = (int(part, 16) for part in request[1:].split(","))
        return "E14" if at >= 0x10000 else bytes((at + i) & 0xFF for i in range(size)).hex()
    return ""


Behaviour = Callable[[str], bytes | None]


@contextmanager
def stub(behave: Behaviour | None = None) -> Iterator[str]:
    """A stub on a port of its own. *behave* gives the raw answer to a request, None to hang up."""
    server = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def serve() -> None:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        ends.append(peer)
        text = b""
        while True:
            try:
                data = peer.recv(4096)
            except OSError:
                return
            text += data.replace(b"+", b"") if b"$" not in data else data
            if not data:
                return
            while b"$" in text and b"#" in text and len(text) >= text.index(b"#") + 3:
                request = text[text.index(b"$") + 1 : text.index(b"#")].decode("latin-1")
                text = text[text.index(b"#") + 3 :]
                reply = behave(request) if behave else b"+" + packet(answer(request))
                if reply is None:
                    peer.close()
                    return
                try:
                    peer.sendall(reply)
                except OSError:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()
        for end in ends:
            end.close()
        thread.join(5)
        assert not thread.is_alive()


def test_registers_come_from_the_description() -> None:
    with stub() as place, connect(place) as gdb:
        assert {r.name: r.number for r in gdb.registers.values()} == {
            "x0": 0, "pc": 1, "cpsr": 7, "after": 8, "TTBR0_EL1": 100,
        }  # fmt: skip
        assert gdb.read_register("TTBR0_EL1") == 0x40_8000_0000
        with pytest.raises(InvalidError, match="no register 'TTBR9'"):
            gdb.read_register("TTBR9")


def test_memory_is_read_in_pieces() -> None:
    with stub() as place, connect(place) as gdb:
        gdb.physical(True)
        assert gdb.read_memory(0x10, 0x1803) == bytes((0x10 + i) & 0xFF for i in range(0x1803))
        with pytest.raises(MemoryFault, match="0x10000"):
            gdb.read_memory(0x10000, 8)


def after_start(raw: bytes | None) -> Behaviour:
    """Honest to the registers' description, then *raw* for whatever is asked."""

    def behave(request: str) -> bytes | None:
        if request.startswith(("qSupported", "qXfer")):
            return b"+" + packet(answer(request))
        return raw

    return behave


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, r"connection lost"),
        (b"+", r"no answer in 0.3 s"),
        (b"+$00", r"no answer in 0.3 s"),
        (b"HTTP/1.1 400 Bad Request", "byte 0x48 where a packet should begin: not a GDB stub"),
        (b"+" + 3 * b"$1234#00", "three packets with a wrong checksum"),
        (b"+$" + b"a" * (1 << 21), "a packet of more than 1048576 bytes"),
        (b"+" * (1 << 21), "where a packet should begin"),
        (b"+" + packet("zz"), "'zz' is not hexadecimal"),
        (b"+" + packet("1234"), "'1234' is not 64 bits"),
        (b"+" + packet(""), "'' is not 64 bits"),
        (b"+" + packet("E01"), "'E01' is not hexadecimal"),
    ],
    ids=["drops", "stalls", "half", "http", "checksum", "flood", "plus", "garbage", "short", "none", "error"],
)  # fmt: skip
def test_a_bad_answer_to_a_register(raw: bytes | None, text: str) -> None:
    seconds = 5.0 if raw is not None and len(raw) > 1 << 20 else 0.3
    with stub(after_start(raw)) as place, connect(place, seconds) as gdb:
        begin = time.monotonic()
        with pytest.raises(TtbrError, match=text) as caught:
            gdb.read_register("TTBR0_EL1")
        assert time.monotonic() - begin < seconds + 2
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"gdb {place}")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (packet("00"), "1 bytes, 8 asked for"),
        (packet("Wat"), "'Wat' is not hexadecimal"),
    ],
)
def test_a_bad_answer_to_memory(raw: bytes, text: str) -> None:
    with (
        stub(after_start(raw)) as place,
        connect(place, 0.3) as gdb,
        pytest.raises(TtbrError, match=text),
    ):
        gdb.read_memory(0, 8)


def test_a_slow_drip_does_not_outlast_the_deadline() -> None:
    with stub(after_start(b"+$")) as place, connect(place, 0.3) as gdb:
        with pytest.raises(TtbrError, match=r"no answer in 0\.3 s"):
            gdb.read_register("TTBR0_EL1")
        # A late answer must not be taken for that of the next request.
        with pytest.raises(TtbrError, match="an earlier request had no answer"):
            gdb.read_register("TTBR0_EL1")


def describing(**files: str) -> Behaviour:
    """A stub whose description is *files*, whole in one part."""

    def behave(request: str) -> bytes:
        if request.startswith("qXfer"):
            name = request.removeprefix("qXfer:features:read:").split(":")[0]
            return packet("l" + files.get(name.partition(".")[0], ""))
        return packet(answer(request))

    return behave


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (lambda _: packet("PacketSize=100"), "does not describe its registers"),
        (lambda _: packet(""), "does not describe its registers"),
        (describing(target='<xi:include href="target.xml"/>'), "more than 64 files"),
        (describing(target='<reg name="a" bitsize="x"/>'), "bitsize 'x'"),
        (describing(target='<reg name="" bitsize="8"/>'), "register ''"),
        (describing(target='<reg name="a" bitsize="8" regnum="9999999"/>'), "regnum '9999999'"),
        (
            describing(target="".join(f'<reg name="r{i}" bitsize="8"/>' for i in range(5000))),
            "more than 4096 registers",
        ),
        (
            lambda r: packet("m" + "x" * 4000) if "qXfer" in r else packet(answer(r)),
            "more than 4194304 bytes",
        ),
        (lambda r: packet("E00") if "qXfer" in r else packet(answer(r)), "'E00' is no part"),
        (lambda r: packet("m") if "qXfer" in r else packet(answer(r)), "'m' is no part"),
        (lambda r: None, "connection lost"),
    ],
)
def test_a_bad_description(behave: Behaviour, text: str) -> None:
    with stub(behave) as place, pytest.raises(TtbrError, match=text):
        connect(place, 5.0)


def test_a_description_in_very_small_parts() -> None:
    def behave(request: str) -> bytes:
        if request.startswith("qXfer"):
            time.sleep(0.05)
            return packet("mx")
        return packet(answer(request))

    begin = time.monotonic()
    with stub(behave) as place, pytest.raises(TtbrError, match=r"no whole description in 0\.4 s"):
        connect(place, 0.1)
    assert time.monotonic() - begin < 2


def test_a_stop_that_nobody_asked_for_is_passed_over() -> None:
    def behave(request: str) -> bytes:
        stop = packet("T05thread:01;") if request.startswith("qSupported") else b""
        return b"+" + stop + packet(answer(request))

    with stub(behave) as place, connect(place) as gdb:
        assert gdb.read_register("cpsr") == 0x3CD
    with stub(after_start(1000 * packet("S05"))) as place, connect(place, 0.2) as gdb:
        begin = time.monotonic()
        with pytest.raises(TtbrError, match=r"in 0\.2 s"):
            gdb.read_register("cpsr")
        assert time.monotonic() - begin < 2


def test_run_length_and_escapes() -> None:
    def behave(request: str) -> bytes:
        if request == "p64":
            body = b"0**7}\x112"  # 13 more zeros; an escaped 1
            return b"+$" + body + b"#%02x" % (sum(body) & 0xFF)
        return b"+" + packet(answer(request))

    with (
        stub(behave) as place,
        connect(place) as gdb,
        pytest.raises(TtbrError, match="00000000000000712"),
    ):
        gdb.read_register("TTBR0_EL1")


@pytest.mark.parametrize("place", ["nowhere", "host:", ":x", "host:0", "host:70000", "host:-1"])
def test_a_place_that_is_none(place: str) -> None:
    with pytest.raises(InvalidError, match="must be HOST:PORT"):
        connect(place)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TtbrError, match=rf"gdb 127\.0\.0\.1:{port}: Connection refused"):
        connect(f"127.0.0.1:{port}")
    with pytest.raises(TtbrError, match=r"gdb no-such-host\.invalid:1: "):
        connect("no-such-host.invalid:1")


def test_a_stream_is_closed_when_the_peer_is_no_stub() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TtbrError, match="no answer"):
        GdbStub(ours, 0.1)
    assert ours.fileno() == -1


@pytest.fixture
def qemu_gdb(tmp_path: Path) -> Iterator[GdbStub]:
    """QEMU with a few instructions at `CODE`, paused."""
    code = tmp_path / "code"
    code.write_bytes(words("msr tpidr_el2, x0\nnop\nnop\nnop\n1: b 1b"))
    loader = ("-device", f"loader,file={code},addr={CODE:#x},force-raw=on")
    with paused_qemu(*loader) as place, connect(place) as gdb:
        yield gdb


@needs_qemu
def test_qemu_steps_and_stops(qemu_gdb: GdbStub) -> None:
    gdb = qemu_gdb
    assert len(gdb.registers) > 200
    gdb.write_register("pc", CODE)
    gdb.write_register("x0", 0x1234)
    assert gdb.read_register("pc") == CODE
    gdb.step()
    assert gdb.read_register("pc") == CODE + 4
    gdb.breakpoint(CODE + 12)
    gdb.run(5.0)
    assert gdb.read_register("pc") == CODE + 12
    gdb.breakpoint(CODE + 12, on=False)
    assert gdb.read_register("TPIDR_EL2") == 0x1234
    assert "paused" in gdb.monitor("info status")
    gdb.physical(True)
    assert gdb.read_memory(CODE, 4) == (0xD51C_D040).to_bytes(4, "little")


@needs_qemu
def test_a_guest_that_spins_for_ever(qemu_gdb: GdbStub) -> None:
    qemu_gdb.write_register("pc", CODE + 16)
    with pytest.raises(TtbrError, match=r"no answer in 0\.3 s"):
        qemu_gdb.run(0.3)
