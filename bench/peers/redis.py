"""Redis streams with an append-only file, through redis-py (with hiredis if it is installed)."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.log import Log
from bench.payload import Row, packed, unpacked
from bench.peers.server import HINT, Server, Unavailable, accepts, free_port, use_clients

use_clients()
try:
    import redis
except ImportError:
    raise Unavailable(f"no module redis: {HINT}") from None

STREAM = "events"
PAGE = 10_000


class RedisServer:
    """redis-server; `fsync` is always, everysec or no. `start` may be called again after `kill`: it loads the file."""

    def __init__(self, directory: Path, fsync: str) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise Unavailable(f"no redis-server: {HINT}")
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.port = free_port()
        self._command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
            "--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Returns when the server answers, its file loaded."""
        self.server = Server("redis-server", self._command, self._directory, self._ready)

    def _ready(self) -> bool:
        if not accepts(self.port):
            return False
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)


class RedisLog(Log):
    """XADD, one field with the message."""

    def __init__(self, path: Path, fsync: str) -> None:
        self._redis = RedisServer(path, fsync)
        self._client = self._redis.client()

    @property
    def port(self) -> int:
        return self._redis.port

    def prepare(self, one: Row) -> dict[Any, Any]:
        return {b"e": packed(one)}

    def appender(self) -> Callable[[Any], object]:
        xadd = self._client.xadd  # the client has a pool: a connection for each thread
        return lambda fields: xadd(STREAM, fields)

    def append_batch(self, prepared: Sequence[Any]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for fields in prepared:
            pipeline.xadd(STREAM, fields)
        pipeline.execute()

    def contents(self) -> Iterator[Row]:
        return (unpacked(fields[b"e"]) for _, fields in self.entries())

    def entries(self, first: str = "-", last: str = "+") -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """(id, fields) of every entry in the range of ids."""
        while page := self._client.xrange(STREAM, first, last, count=PAGE):
            yield from page
            first = b"(" + page[-1][0]

    def load(self, entries: Iterator[tuple[str, bytes]]) -> None:
        """(id, message) pairs stored as fast as the server takes them: protocol bytes on a socket, no client."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            batch: list[bytes] = []
            for at, message in entries:
                batch.append(
                    b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$%d\r\n%b\r\n$1\r\ne\r\n$%d\r\n%b\r\n"
                    % (len(at), at.encode(), len(message), message)
                )
                if len(batch) == 1_000:
                    _exchange(connection, batch)
                    batch = []
            _exchange(connection, batch)

    def length(self) -> int:
        found: int = self._client.xlen(STREAM)
        return found

    def kill(self) -> None:
        self._client.close()
        self._redis.server.kill()

    def start(self) -> None:
        self._redis.start()

    @contextlib.contextmanager
    def sender(self) -> Iterator[Callable[[bytes], object]]:
        """A function that sends one message."""
        yield lambda message: self._client.xadd(STREAM, {b"e": message})

    def close(self) -> None:
        self._client.close()
        self._redis.server.stop()


def _exchange(connection: socket.socket, batch: Sequence[bytes]) -> None:
    """Sends the commands and waits for their replies: each is an id, two lines."""
    connection.sendall(b"".join(batch))
    left = 2 * len(batch)
    while left:
        data = connection.recv(1 << 16)
        if not data or data.startswith(b"-"):
            raise AssertionError(f"redis refused the load: {data[:80]!r}")
        left -= data.count(b"\n")


def receive(port: Path, ready: Callable[[], object], take: Callable[[bytes], bool]) -> None:
    """Gives every new message to `take` until it returns false; calls `ready` once."""
    client = redis.Redis(port=int(port.name))
    last: bytes | str = "0"
    ready()
    while True:
        for _, entries in client.xread({STREAM: last}, block=60_000):
            for entry_id, fields in entries:
                last = entry_id
                if not take(fields[b"e"]):
                    return
