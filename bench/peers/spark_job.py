"""Runs Nexmark's queries in Spark Structured Streaming, in its own environment: `python spark_job.py FOLDER`.

The queries come as JSON on stdin; FOLDER holds person, auction, bid and side_input as folders of Parquet files. Each
query runs with local[2] until the files are read (trigger availableNow), in several micro-batches with checkpoints,
into the noop sink: in append mode, or in update mode where Spark wants that. Prints a line of JSON for each: name,
seconds and mode, or name and error.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FILES_PER_BATCH = "4"


def main(folder: Path) -> int:
    from pyspark.sql import SparkSession

    queries: dict[str, str] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="spark-") as work:
        builder: Any = SparkSession.builder
        spark = (
            builder.master("local[2]")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.driver.memory", "4g")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.parquet.inferTimestampNTZ.enabled", "false")  # a watermark wants times with a zone
            .config("spark.log.level", "ERROR")
            .config("spark.sql.warehouse.dir", f"{work}/warehouse")
            .getOrCreate()
        )
        for name in ("person", "auction", "bid"):
            schema = spark.read.parquet(str(folder / name)).schema
            rows = spark.readStream.schema(schema).option("maxFilesPerTrigger", FILES_PER_BATCH)
            rows.parquet(str(folder / name)).withWatermark("dateTime", "4 seconds").createOrReplaceTempView(name)
        spark.read.parquet(str(folder / "side_input")).createOrReplaceTempView("side_input")
        for name, query in {"empty": "SELECT id FROM person WHERE id < 0", **queries}.items():
            errors = []
            for mode in ("append", "update"):
                try:
                    started = time.perf_counter()
                    writer = spark.sql(query).writeStream.format("noop").outputMode(mode).trigger(availableNow=True)
                    running = writer.option("checkpointLocation", f"{work}/{name}-{mode}").start()
                    running.awaitTermination()
                    seconds = time.perf_counter() - started
                    print(json.dumps({"name": name, "seconds": seconds, "mode": mode}), flush=True)
                    break
                except Exception as error:
                    errors.append(str(error).splitlines()[0][:200])
            else:
                print(json.dumps({"name": name, "error": " / ".join(errors)}), flush=True)
        spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
