"""Put on a process's path, this forbids it to reach beyond this machine; ranks may still talk to each other."""

from __future__ import annotations

import os
import socket

HERE = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)


def _refuse(what: str, host: object) -> None:
    if isinstance(host, bytes):
        host = host.decode()
    if host not in (*HERE, socket.gethostname()):
        with open(os.environ["NO_NETWORK_LOG"], "a", encoding="utf-8") as log:
            log.write(f"{what} {host}\n")
        raise OSError(f"no network in tests: {what} {host}")


class _HomelySocket(socket.socket):
    """A socket that connects to this machine only."""

    def connect(self, address: object) -> None:
        self._look_at("connect", address)
        super().connect(address)

    def connect_ex(self, address: object) -> int:
        self._look_at("connect", address)
        return super().connect_ex(address)

    def sendto(self, data: bytes, *args: object) -> int:
        self._look_at("sendto", args[-1])
        return super().sendto(data, *args)

    def _look_at(self, what: str, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse(what, address[0])


_getaddrinfo = socket.getaddrinfo


def _homely_getaddrinfo(host: object, *args: object, **kwargs: object) -> list:
    _refuse("look up", host)
    return _getaddrinfo(host, *args, **kwargs)


socket.socket = _HomelySocket
socket.getaddrinfo = _homely_getaddrinfo
