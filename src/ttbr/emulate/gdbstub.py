"""A client of the GDB remote protocol: the registers and memory of a stopped CPU.

A packet is ``$data#cc``, cc the sum of the data's bytes; it is acknowledged with ``+`` (GDB manual,
appendix "Remote Serial Protocol"). Register names and numbers come from the target's own XML
(``qXfer:features:read``), since they differ from CPU to CPU. The peer is not trusted: every wait
has a deadline and every size a bound, and whatever cannot be understood is a `TtbrError`.
"""

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ttbr.errors import InvalidError, MemoryFault, TtbrError

__all__ = ["GdbStub", "Numbered", "connect"]

MAX_PACKET = 1 << 20
MAX_XML = 4 << 20
MAX_FEATURES = 64
MAX_REGISTERS = 4096
CHUNK = 0x400  # bytes of memory asked for at once; QEMU's packets hold 4096 digits
DESCRIPTION = 4  # timeouts that reading the whole description may take
STOP = re.compile("[ST][0-9a-fA-F]{2}")
ESCAPE, REPEAT = 0x7D, 0x2A


@dataclass(frozen=True, slots=True)
class Numbered:
    """A register of the target: its number in the protocol and its size in bits."""

    name: str
    number: int
    bits: int


def connect(place: str, timeout: float = 5.0) -> "GdbStub":
    """A client of the stub at ``HOST:PORT`` (``[v6]:PORT``); no request may take longer than
    *timeout* seconds. `TtbrError` when nobody listens there or the peer is no GDB stub.
    """
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InvalidError(f"gdb {place!r}: must be HOST:PORT")
    host = host.strip("[]") or "localhost"
    try:
        stream = socket.create_connection((host, int(port)), timeout)
        # Packets are small and each waits for an answer.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise TtbrError(f"gdb {place}: {error.strerror or error}") from None
    return GdbStub(stream, timeout, place)


class GdbStub:
    """A connection to a stub over *stream*, a connected socket. Use it as a context manager.

    `registers` are those that the target describes, by name in the target's own spelling.
    *name* is for messages.
    """

    def __init__(self, stream: socket.socket, timeout: float = 5.0, name: str = "stub") -> None:
        self._stream = stream
        self._timeout = timeout
        self._name = name
        self._received = bytearray()
        self._limit = timeout
        self._deadline = 0.0
        self._described = time.monotonic() + DESCRIPTION * timeout
        self._pending = False
        self._physical: bool | None = None
        try:
            features = self.request("qSupported:swbreak+;xmlRegisters=aarch64").split(";")
            if "qXfer:features:read+" not in features:
                raise self._error("it does not describe its registers (qXfer:features:read)")
            self.registers = self._registers()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"gdb {self._name}"

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._stream.close()

    def detach(self) -> None:
        """Let the target run; that it does not answer, or is gone, is no error."""
        with suppress(TtbrError):
            self.request("D", min(self._timeout, 1.0))

    def _error(self, why: str) -> TtbrError:
        return TtbrError(f"{self}: {why}")

    # Packets

    def request(self, text: str, timeout: float | None = None) -> str:
        """The answer to the packet *text*; an empty one means that the stub does not know it."""
        self._send(text, timeout)
        answer = self._answer()
        # A running target is stopped by the connection, and says so when it likes.
        while STOP.match(answer) and text not in ("s", "c"):
            if time.monotonic() > self._deadline:
                raise self._error(f"only stops in {self._limit:g} s")
            answer = self._answer()
        return answer

    def _send(self, text: str, timeout: float | None = None) -> None:
        self._limit = self._timeout if timeout is None else timeout
        self._deadline = time.monotonic() + self._limit
        if self._pending:  # the answer to a request that was given up
            raise self._error("an earlier request had no answer")
        data = text.encode("latin-1")
        self._pending = True
        self._write(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _answer(self) -> str:
        for _ in range(3):
            data = self._packet()
            if data is not None:
                self._pending = False
                self._write(b"+")
                return data.decode("latin-1")
            self._write(b"-")
        raise self._error("three packets with a wrong checksum")

    def _write(self, data: bytes) -> None:
        try:
            self._stream.settimeout(max(self._deadline - time.monotonic(), 0.001))
            self._stream.sendall(data)
        except TimeoutError:
            raise self._error("it does not read what it is sent") from None
        except OSError as error:
            raise self._error(f"connection lost ({error.strerror or error})") from None

    def _byte(self) -> int:
        if not self._received:
            left = self._deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._stream.settimeout(left)
                data = self._stream.recv(1 << 16)
            except TimeoutError:
                raise self._error(f"no answer in {self._limit:g} s") from None
            except OSError as error:
                raise self._error(f"connection lost ({error.strerror or error})") from None
            if not data:
                raise self._error("connection lost (the peer closed it)")
            self._received += data
        return self._received.pop(0)

    def _packet(self) -> bytes | None:
        """The data of the next packet; None when its checksum is wrong."""
        skipped = 0
        while (byte := self._byte()) != ord("$"):
            skipped += 1
            if byte not in b"+-" or skipped > MAX_PACKET:
                raise self._error(f"byte {byte:#04x} where a packet should begin: not a GDB stub")
        data, total = bytearray(), 0
        while (byte := self._byte()) != ord("#"):
            total += byte
            if byte == ESCAPE:
                byte = self._byte()
                total += byte
                data.append(byte ^ 0x20)
            elif byte == REPEAT and data:
                count = self._byte()
                total += count
                data += data[-1:] * max(count - 29, 0)
            else:
                data.append(byte)
            if len(data) > MAX_PACKET:
                raise self._error(f"a packet of more than {MAX_PACKET} bytes")
            if time.monotonic() > self._deadline:
                raise self._error(f"no whole packet in {self._limit:g} s")
        checksum = bytes((self._byte(), self._byte()))
        return bytes(data) if checksum.lower() == b"%02x" % (total & 0xFF) else None

    def _hexadecimal(self, text: str, what: str) -> bytes:
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise self._error(f"{what}: {text[:40]!r} is not hexadecimal") from None

    # Registers

    def _document(self, name: str) -> str:
        """A file of the target's description."""
        text = ""
        while len(text) <= MAX_XML:
            if time.monotonic() > self._described:
                raise self._error(f"no whole description in {DESCRIPTION * self._timeout:g} s")
            part = self.request(f"qXfer:features:read:{name}:{len(text):x},ffb")
            if part[:1] not in ("l", "m") or part == "m":
                raise self._error(f"{name}: {part[:40]!r} is no part of a file")
            text += part[1:]
            if part[0] == "l":
                return text
        raise self._error(f"{name}: more than {MAX_XML} bytes")

    def _registers(self) -> dict[str, Numbered]:
        """The registers of target.xml and what it includes.

        Read by tag, not by an XML parser: a parser would expand entities that the peer defines.
        A register without ``regnum`` follows the one before it (GDB manual, "Target Descriptions").
        """
        names, found, number = ["target.xml"], {}, 0
        seen = 0
        while names:
            seen += 1
            if seen > MAX_FEATURES:
                raise self._error(f"a target description of more than {MAX_FEATURES} files")
            for tag, inside in re.findall(
                r"<(xi:include|reg)\s([^<>]{0,1000}?)/?>", self._document(names.pop(0))
            ):
                given = dict(re.findall(r'([\w:]+)\s*=\s*"([^"]*)"', inside))
                if tag == "xi:include":
                    names.append(given.get("href", ""))
                    continue
                register = self._numbered(given, number)
                found[register.name] = register
                number = register.number + 1
                if len(found) > MAX_REGISTERS:
                    raise self._error(f"more than {MAX_REGISTERS} registers")
        return found

    def _numbered(self, given: dict[str, str], following: int) -> Numbered:
        name, size = given.get("name", ""), given.get("bitsize", "")
        number = given.get("regnum", str(following))
        if not name or not re.fullmatch(r"\d{1,5}", size) or not re.fullmatch(r"\d{1,6}", number):
            raise self._error(f"register {name!r}: bitsize {size!r}, regnum {number!r}")
        return Numbered(name, int(number), int(size))

    def read_register(self, name: str) -> int:
        """The value of a register of `registers`; `InvalidError` for a name that it lacks."""
        register = self.registers.get(name)
        if register is None:
            raise InvalidError(f"gdb {self._name}: the target has no register {name!r}")
        answer = self.request(f"p{register.number:x}")
        data = self._hexadecimal(answer, name)
        if len(data) * 8 != register.bits:
            raise self._error(f"{name}: {answer[:40]!r} is not {register.bits} bits")
        return int.from_bytes(data, "little")

    def write_register(self, name: str, value: int) -> None:
        """Set a general register or the PC; of system registers QEMU ignores it."""
        register = self.registers[name]
        data = value.to_bytes(register.bits // 8, "little").hex()
        if self.request(f"P{register.number:x}={data}") != "OK":
            raise self._error(f"{name} cannot be written")

    # Memory

    def physical(self, on: bool) -> None:
        """Whether `read_memory` takes physical addresses (QEMU's ``Qqemu.PhyMemMode``)."""
        if self._physical != on:
            answer = self.request(f"Qqemu.PhyMemMode:{on:d}")
            if answer != "OK":
                raise self._error("it does not read physical memory (Qqemu.PhyMemMode)")
            self._physical = on

    def read_memory(self, address: int, size: int) -> bytes:
        """*size* bytes at *address*; `MemoryFault` where the target has none."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            wanted = min(size - len(data), CHUNK)
            answer = self.request(f"m{at:x},{wanted:x}")
            if re.fullmatch(r"E[0-9a-fA-F]{2}|", answer):
                raise MemoryFault(at, wanted, "the target has no memory there")
            part = self._hexadecimal(answer, f"memory at {at:#x}")
            if len(part) != wanted:
                raise self._error(f"memory at {at:#x}: {len(part)} bytes, {wanted} asked for")
            data += part
        return data

    # Running

    def breakpoint(self, address: int, on: bool = True) -> None:
        """Set or remove a breakpoint at the virtual address *address*."""
        answer = self.request(f"{'Z' if on else 'z'}1,{address:x},4")
        if answer != "OK":
            raise self._error(f"no breakpoint at {address:#x}: {answer[:40]!r}")

    def step(self) -> None:
        """Execute one instruction."""
        self._resume("s", None)

    def run(self, timeout: float) -> None:
        """Run to a breakpoint; `TtbrError` when none is reached in *timeout* seconds."""
        self._resume("c", timeout)

    def _resume(self, command: str, timeout: float | None) -> None:
        answer = self.request(command, timeout)
        if not STOP.match(answer):
            raise self._error(f"{answer[:40]!r} in place of a stop")

    def monitor(self, command: str) -> str:
        """What the target's own monitor answers to *command* (``qRcmd``)."""
        self._send("qRcmd," + command.encode().hex())
        text = b""
        while (answer := self._answer()) != "OK":
            if answer[:1] != "O" or len(text) > MAX_PACKET:
                raise self._error(f"monitor {command}: {answer[:40]!r}")
            text += self._hexadecimal(answer[1:], f"monitor {command}")
        return text.decode("latin-1")
