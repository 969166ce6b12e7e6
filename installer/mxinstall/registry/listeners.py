"""Who listens on a TCP port of this host, as the kernel tells it (proc_pid_net(5)). Opens no connection."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True)
class Listener:
    """A listening socket. `pid` and `program` are None where this user may not see them."""

    address: str
    port: int
    pid: int | None
    program: str | None

    def __str__(self) -> str:
        who = f"{self.program} (pid {self.pid})" if self.pid else "a process that this user may not see"
        return f"{who} listens on {self.address}:{self.port}"


def listener_at(host: str, port: int) -> Listener | None:
    """What would be in the way of binding HOST:PORT: the same address or a wildcard on the same port."""
    wanted = _address(host)
    for table in ("tcp", "tcp6"):
        for address, seen_port, inode in _listening(Path("/proc/net") / table):
            if seen_port == port and (wanted is None or address == wanted or _is_wildcard(address)):
                pid = _owner(inode)
                return Listener(str(address), port, pid, _program(pid) if pid else None)
    return None


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    """The address in `host`; None (anything counts) for a wildcard or a name."""
    try:
        address = _unmapped(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return None
    return None if _is_wildcard(address) else address


def _is_wildcard(address: _Address) -> bool:
    return int(address) == 0


def _unmapped(address: _Address) -> _Address:
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _listening(table: Path) -> list[tuple[_Address, int, str]]:
    found = []
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTEN:
            packed, _, port = fields[1].partition(":")
            found.append((_decode(packed), int(port, 16), fields[9]))
    return found


def _decode(packed: str) -> _Address:
    """The kernel prints addresses as 32-bit words in the host's order (little-endian on all that we support)."""
    raw = bytes.fromhex(packed)
    swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return _unmapped(ipaddress.ip_address(swapped))


def _owner(inode: str) -> int | None:
    wanted = f"socket:[{inode}]"
    for directory in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) == wanted for link in directory.iterdir()):
                return int(directory.parent.name)
        except OSError:
            continue
    return None


def _program(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None
