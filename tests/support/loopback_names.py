"""A DNS server for a loopback address: what the resolver of a program under test asks. A records only."""

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def serving(address: str, names: Mapping[str, str], delay_seconds: float = 0.0) -> Iterator[None]:
    """Answers at UDP port 53 of `address` for `names` (name → IPv4 address), each after `delay_seconds`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, 53))
        listener.settimeout(0.2)
        ended = threading.Event()

        def send(reply: bytes, peer: tuple[str, int]) -> None:
            with contextlib.suppress(OSError):
                listener.sendto(reply, peer)

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    question, peer = listener.recvfrom(4096)
                    late = threading.Timer(delay_seconds, send, (answer(question, names), peer))
                    late.daemon = True
                    late.start()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            yield
        finally:
            ended.set()
            server.join()


def answer(question: bytes, names: Mapping[str, str]) -> bytes:
    """The reply to one query: its address, no such name, or no record of that type. Source: RFC 1035, 4.1."""
    labels, position = [], 12
    while length := question[position]:
        labels.append(question[position + 1 : position + 1 + length].decode())
        position += 1 + length
    kind = struct.unpack_from("!H", question, position + 1)[0]
    address = names.get(".".join(labels).lower())
    found = address is not None and kind == 1
    flags = 0x8400 | (0 if address is not None else 3)
    header = question[:2] + struct.pack("!HHHHH", flags, 1, int(found), 0, 0)
    record = b""
    if found:
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + ipaddress.IPv4Address(address).packed
    return header + question[12 : position + 5] + record
