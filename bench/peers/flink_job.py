"""Runs Nexmark's queries in PyFlink, in its own environment: `python flink_job.py FOLDER JARS`.

The queries come as JSON on stdin; FOLDER holds person, auction, bid and side_input as folders of Parquet files. They
are turned into Avro files first, which Flink reads by itself. Each query runs as a streaming job of two slots with
mini-batch and checkpoints into the blackhole. Prints a line of JSON for each: name and seconds, or name and error.
Seconds are of the whole job, its start included; the job "empty" has no more than that.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "parallelism.default": "2",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "100 ms",
    "table.exec.mini-batch.size": "5000",
    "execution.checkpointing.interval": "1 s",
    "taskmanager.memory.process.size": "4g",
    "table.local-time-zone": "UTC",
}
TYPES = {"int64": "BIGINT", "string": "STRING", "timestamp[us]": "TIMESTAMP(3)"}
WATERMARK = ", WATERMARK FOR `dateTime` AS `dateTime` - INTERVAL '4' SECOND"


def write_avro(source: Path, folder: Path) -> dict[str, str]:
    """The rows of a folder of Parquet files as two Avro files; Flink's types of their columns."""
    import fastavro
    import pyarrow.parquet as pq

    files = sorted(source.iterdir())
    types = {field.name: TYPES[str(field.type)] for field in pq.read_schema(files[0])}
    words: dict[str, Any] = {
        "BIGINT": "long", "STRING": "string", "TIMESTAMP(3)": {"type": "long", "logicalType": "timestamp-millis"},
    }  # fmt: skip
    schema = {"type": "record", "name": "row", "fields": [{"name": n, "type": words[t]} for n, t in types.items()]}
    folder.mkdir()
    half = (len(files) + 1) // 2
    for part, own in enumerate((files[:half], files[half:])):
        if own:
            with open(folder / f"{part}.avro", "wb") as out:
                fastavro.writer(out, schema, (row for file in own for row in pq.read_table(file).to_pylist()))
    return types


def main(folder: Path, jars: Path) -> int:
    from pyflink.table import EnvironmentSettings, TableDescriptor, TableEnvironment

    queries: dict[str, str] = json.load(sys.stdin)
    avro = Path(tempfile.mkdtemp(prefix="flink-"))
    table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for key, value in SETTINGS.items():
        table.get_config().set(key, value)
    table.get_config().set("pipeline.jars", ";".join(f"file://{jar}" for jar in sorted(jars.glob("*.jar"))))
    for name in ("person", "auction", "bid", "side_input"):
        types = write_avro(folder / name, avro / name)
        columns = ", ".join(f"`{column}` {type} NOT NULL" for column, type in types.items())
        mark = WATERMARK if "dateTime" in types else ""
        table.execute_sql(
            f"CREATE TABLE {name} ({columns}{mark}) WITH ('connector' = 'filesystem', "
            f"'path' = 'file://{avro / name}', 'format' = 'avro')"
        )
    table.execute_sql("CREATE VIEW empty_input AS SELECT * FROM side_input WHERE `key` < 0")
    for name, query in {"empty": "SELECT * FROM empty_input", **queries}.items():
        try:
            found = table.sql_query(query)
            sink = TableDescriptor.for_connector("blackhole").build()
            started = time.perf_counter()
            found.execute_insert(sink).wait()
            print(json.dumps({"name": name, "seconds": time.perf_counter() - started}), flush=True)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            print(json.dumps({"name": name, "error": " / ".join(lines[:4])[:600]}), flush=True)
    shutil.rmtree(avro)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
