"""Kafka, one node in KRaft mode, through confluent-kafka."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.log import Log
from bench.payload import Row, packed, unpacked
from bench.peers.server import HINT, JARS, Server, Unavailable, accepts, free_port, use_clients

use_clients()
try:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, NewTopic
except ImportError:
    raise Unavailable(f"no module confluent_kafka: {HINT}") from None

TOPIC = "events"
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{control}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{control}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes=33554432
"""


def kafka_server(directory: Path, port: int) -> Server:
    java = shutil.which("java")
    if java is None:
        raise Unavailable("no java on this machine")
    if not any(JARS.glob("kafka_*.jar")):
        raise Unavailable(f"no Kafka in {JARS.parent.name}/: {HINT}")
    directory.mkdir(exist_ok=True)
    config = directory / "server.properties"
    config.write_text(PROPERTIES.format(port=port, control=free_port(), directory=directory))
    run = [java, "-Xmx1g", "-Xms256m", "-cp", f"{JARS}/*"]
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    made = subprocess.run(
        [*run, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise Unavailable(f"Kafka could not make its directory: {(made.stdout + made.stderr).strip()[-200:]}")
    return Server("kafka", [*run, "kafka.Kafka", config], directory, lambda: accepts(port))


class KafkaLog(Log):
    """One topic of one partition. `flush`: the broker flushes each batch it gets before it acknowledges it."""

    def __init__(self, path: Path, flush: bool = False) -> None:
        self.port = free_port()
        self._server = kafka_server(path, self.port)
        self._where = {"bootstrap.servers": f"127.0.0.1:{self.port}"}
        try:
            self._make_topic({"flush.messages": "1"} if flush else {})
        except BaseException:
            self._server.kill()
            raise
        self._each = self._producer({"linger.ms": 0})
        self._batch = self._producer(
            {"linger.ms": 50, "batch.num.messages": 1_000_000, "batch.size": 16 << 20, "message.max.bytes": 32 << 20}
        )

    def _make_topic(self, config: dict[str, str]) -> None:
        admin = AdminClient(self._where)
        topic = NewTopic(TOPIC, num_partitions=1, replication_factor=1, config=config)
        admin.create_topics([topic], operation_timeout=30)[TOPIC].result(60)

    def _producer(self, options: dict[str, Any]) -> Producer:
        limits = {"queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 2 << 20}
        return Producer({**self._where, "acks": 1, "log_level": 0, "socket.nagle.disable": True, **limits, **options})

    def prepare(self, one: Row) -> bytes:
        return packed(one)

    def appender(self) -> Callable[[Any], object]:
        done = threading.Event()
        produce, poll = self._each.produce, self._each.poll

        def delivered(error: object, _message: object) -> None:
            if error is not None:
                raise AssertionError(f"Kafka lost a message: {error}")
            done.set()

        def append(message: bytes) -> None:
            done.clear()
            produce(TOPIC, message, on_delivery=delivered)
            while not done.is_set():
                poll(0.01)

        return append

    def append_batch(self, prepared: Sequence[Any]) -> None:
        produce = self._batch.produce
        for message in prepared:
            produce(TOPIC, message)
        if self._batch.flush(120):
            raise AssertionError("Kafka did not take a batch within 120 s")

    def load(self, messages: Iterator[tuple[str, bytes, int]]) -> None:
        """(key, message, time in ms) triples, as fast as the broker takes them."""
        produce, poll = self._batch.produce, self._batch.poll
        for at, (key, message, time_ms) in enumerate(messages):
            produce(TOPIC, message, key=key, timestamp=time_ms)
            if at % 10_000 == 0:
                poll(0)
        self._batch.flush(120)

    def consumer(self, first: int = OFFSET_BEGINNING) -> Consumer:
        consumer = Consumer({**self._where, "log_level": 0, "group.id": "bench", "enable.auto.commit": False,
                             "fetch.wait.max.ms": 10, "queued.max.messages.kbytes": 1 << 18})  # fmt: skip
        consumer.assign([TopicPartition(TOPIC, 0, first)])
        return consumer

    def messages(self, count: int, first: int = OFFSET_BEGINNING) -> Iterator[bytes]:
        """The values of `count` messages."""
        consumer = self.consumer(first)
        try:
            while count > 0:
                page = consumer.consume(min(count, 10_000), 20)
                if not page:
                    raise AssertionError("Kafka gave no message for 20 s")
                count -= len(page)
                for message in page:
                    yield message.value()
        finally:
            consumer.close()

    def offset_at(self, time_ms: int) -> int:
        """The offset of the first message at or after the time."""
        consumer = self.consumer()
        try:
            (found,) = consumer.offsets_for_times([TopicPartition(TOPIC, 0, time_ms)], timeout=20)
            return int(found.offset)
        finally:
            consumer.close()

    def length(self) -> int:
        consumer = self.consumer()
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=20)
            return int(high - low)
        finally:
            consumer.close()

    def contents(self) -> Iterator[Row]:
        return map(unpacked, self.messages(self.length()))

    @contextlib.contextmanager
    def sender(self) -> Iterator[Callable[[bytes], object]]:
        """A function that sends one message, not waiting for its acknowledgement."""
        # Without any lingering each message is a request of its own, which the broker cannot keep up with.
        producer = self._producer({"linger.ms": 1, "max.in.flight.requests.per.connection": 5})
        produce, poll = producer.produce, producer.poll

        def send(message: bytes) -> None:
            produce(TOPIC, message)
            poll(0)

        yield send
        producer.flush(60)
        producer.poll(0.1)

    def close(self) -> None:
        self._server.stop()


def receive(port: Path, ready: Callable[[], object], take: Callable[[bytes], bool]) -> None:
    """Gives every new message to `take` until it returns false; calls `ready` once."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{port.name}", "log_level": 0, "group.id": "bench",
                         "enable.auto.commit": False})  # fmt: skip
    consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
    consumer.poll(2)  # connected
    ready()
    try:
        while True:
            message = consumer.poll(60)
            if message is not None and message.error() is None and not take(message.value()):
                return
    finally:
        consumer.close()
