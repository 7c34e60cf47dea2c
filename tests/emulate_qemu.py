"""A QEMU with a GDB stub, paused, for tests of the client."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CODE = 0x4020_0000


@contextmanager
def paused_qemu(*arguments: str, cpu: str = "max") -> Iterator[str]:
    """The HOST:PORT of a virt machine that has not started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command: Sequence[str] = (
        *("qemu-system-aarch64", "-machine", "virt,virtualization=on,secure=on", "-cpu", cpu),
        *("-m", "64M", "-display", "none", "-serial", "none", "-monitor", "none", "-nodefaults"),
        *("-S", "-gdb", f"tcp:127.0.0.1:{port}", *arguments),
    )
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it listens, seen in /proc: a connection would be taken for a client."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with open("/proc/net/tcp", encoding="ascii") as file:
            if wanted in file.read():
                return
        time.sleep(0.01)
    raise AssertionError("QEMU does not listen")
