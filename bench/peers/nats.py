"""NATS JetStream with a file store, through nats-py: asyncio, so that threads become tasks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.log import Log
from bench.payload import Row, packed, unpacked
from bench.peers.server import BINARIES, HINT, Server, Unavailable, accepts, free_port, use_clients

use_clients()
try:
    import nats
    from nats.js.api import ConsumerConfig, StorageType, StreamConfig
except ImportError:
    raise Unavailable(f"no module nats: {HINT}") from None

SUBJECT = "events"
WINDOW = 1_000  # messages of a batch that are under way at once


def nats_server(directory: Path, port: int, sync: str) -> Server:
    """`sync` is "always" (every message is flushed before it is acknowledged) or a duration."""
    directory.mkdir(exist_ok=True)
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 1MB\n'
        f'jetstream {{ store_dir: "{directory}/store", sync_interval: "{sync}" }}\n'
    )
    refused = "no nats-server"
    for binary in (BINARIES / "nats-server", shutil.which("nats-server")):
        if binary is None or not Path(binary).exists():
            continue
        test = subprocess.run([str(binary), "-c", str(config), "-t"], capture_output=True, text=True, check=False)
        if test.returncode == 0:
            return Server("nats-server", [binary, "-c", config], directory, lambda: accepts(port))
        refused = f"{binary} is too old for sync_interval (2.10 has it)"
    raise Unavailable(f"{refused}: {HINT}")


class NatsLog(Log):
    """One stream; a publish returns with the server's acknowledgement."""

    def __init__(self, path: Path, sync: str) -> None:
        self.port = free_port()
        self._server = nats_server(path, self.port, sync)
        self._loop = asyncio.new_event_loop()
        self._client, self._stream = self._loop.run_until_complete(self._connect())

    async def _connect(self) -> tuple[Any, Any]:
        client = await nats.connect(f"nats://127.0.0.1:{self.port}")
        stream = client.jetstream(timeout=60)
        await stream.add_stream(StreamConfig(name=SUBJECT, subjects=[SUBJECT], storage=StorageType.FILE))
        return client, stream

    def prepare(self, one: Row) -> bytes:
        return packed(one)

    def append_each(self, blocks: Sequence[Sequence[Any]]) -> None:
        async def each(block: Sequence[bytes]) -> None:
            publish = self._stream.publish
            for message in block:
                await publish(SUBJECT, message)

        async def every() -> None:
            await asyncio.gather(*map(each, blocks))

        self._loop.run_until_complete(every())

    def append_batch(self, prepared: Sequence[Any]) -> None:
        async def windows() -> None:
            for at in range(0, len(prepared), WINDOW):
                await asyncio.gather(*(self._stream.publish(SUBJECT, one) for one in prepared[at : at + WINDOW]))

        self._loop.run_until_complete(windows())

    def contents(self) -> Iterator[Row]:
        async def fetch() -> list[bytes]:
            info = await self._stream.stream_info(SUBJECT)
            config = ConsumerConfig(ack_policy="none", deliver_policy="all")
            reader = await self._stream.pull_subscribe(SUBJECT, config=config)
            found: list[bytes] = []
            while len(found) < info.state.messages:
                found += [message.data for message in await reader.fetch(500, timeout=20)]
            return found

        return map(unpacked, self._loop.run_until_complete(fetch()))

    @contextlib.contextmanager
    def sender(self) -> Iterator[Callable[[bytes], object]]:
        """A function that sends one message, not waiting for its acknowledgement; the loop runs in a thread."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        client, loop = self._client, self._loop

        def send(message: bytes) -> None:
            loop.call_soon_threadsafe(lambda: loop.create_task(client.publish(SUBJECT, message)))

        try:
            yield send
            asyncio.run_coroutine_threadsafe(client.flush(60), loop).result(60)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def close(self) -> None:
        try:
            self._loop.run_until_complete(self._client.close())
            self._loop.close()
        finally:
            self._server.stop()


def receive(port: Path, ready: Callable[[], object], take: Callable[[bytes], bool]) -> None:
    """Gives every new message to `take` until it returns false; calls `ready` once."""

    async def run() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{port.name}")
        done = asyncio.Event()

        async def handle(message: Any) -> None:
            if not take(message.data):
                done.set()

        await client.subscribe(SUBJECT, cb=handle, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await client.flush()
        ready()
        await done.wait()
        await client.close()

    asyncio.run(run())
