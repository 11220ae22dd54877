"""Runs a command where every name that it looks up is recorded: ``python lookups.py NAMES COMMAND ...``.

The fixture ``looked_up`` starts it in network and mount namespaces of its own. There is no network in them, and this
process is the only name server. It knows no name.
"""

import fcntl
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_NO_SUCH_NAME = b"\x81\x83"


def run(names: Path, command: list[str]) -> int:
    """The exit code of ``command``; the names are in the file ``names``, one a line."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, tempfile.NamedTemporaryFile("w") as resolver:
        fcntl.ioctl(server, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
        resolver.write("nameserver 127.0.0.1\n")
        resolver.flush()
        subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
        server.bind(("127.0.0.1", 53))
        names.write_text("")
        threading.Thread(target=_answer, args=(server, names), daemon=True).start()
        return subprocess.run(command, check=False).returncode


def _answer(server: socket.socket, names: Path) -> None:
    while True:
        question, client = server.recvfrom(512)
        labels, place = [], 12
        while size := question[place]:
            labels.append(question[place + 1 : place + 1 + size].decode())
            place += size + 1
        with names.open("a") as file:
            file.write(".".join(labels) + "\n")
        server.sendto(question[:2] + _NO_SUCH_NAME + question[4:6] + bytes(6) + question[12:], client)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
