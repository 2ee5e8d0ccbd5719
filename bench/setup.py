"""Installs what the benchmarks compare with, where it is missing; says in a line each what is there.

    python -m bench setup

Redis and NATS from Debian (as root), their Python clients with pip into .bench-peers/ next to this folder, Kafka's jars
with Maven into the same place, Flink and Spark in an environment each. A NATS server too old to flush every message is
replaced by a newer one if Go is there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers.server import BINARIES, CLIENTS, FLINK, INSTALLED, JARS, SPARK, use_clients

DEBIAN = {"redis-server": "redis-server", "nats-server": "nats-server"}  # binary -> package
PYTHON = {"redis": "redis", "hiredis": "hiredis", "nats": "nats-py", "confluent_kafka": "confluent-kafka"}
NATS_MODULE = "github.com/nats-io/nats-server/v2@v2.10.29"
KAFKA_VERSION, FLINK_VERSION, SPARK_VERSION = "3.9.0", "2.0.0", "4.0.1"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
</dependency></dependencies></project>
"""
FLINK_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>flink</artifactId><version>1</version>
<dependencies><dependency>
<groupId>org.apache.flink</groupId><artifactId>flink-sql-avro</artifactId><version>{FLINK_VERSION}</version>
<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>
</dependency></dependencies></project>
"""


class NotInstalled(Exception):
    """Why it could not be installed."""


def _run(command: Sequence[str], directory: Path | None = None, **environment: str) -> None:
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, env={**os.environ, **environment}
    )
    if found.returncode:
        lines = [line for line in (found.stdout + found.stderr).splitlines() if line.strip()]
        raise NotInstalled(f"{command[0]} failed: {lines[-1] if lines else found.returncode}")


def debian() -> str:
    missing = [package for binary, package in DEBIAN.items() if shutil.which(binary) is None]
    if not missing:
        return "there already"
    if shutil.which("apt-get") is None or os.geteuid():
        raise NotInstalled(f"{', '.join(missing)}: needs apt-get and root")
    # No server of the distribution is to start: the benchmarks start their own.
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    _run(install, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    return f"installed {', '.join(missing)}"


def clients() -> str:
    use_clients()
    importlib.invalidate_caches()
    missing = [package for module, package in PYTHON.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return "there already"
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(CLIENTS), *missing])
    return f"installed {', '.join(missing)}"


def newer_nats() -> str:
    config = INSTALLED / "nats-test.conf"
    config.write_text('jetstream { store_dir: "/nonexistent", sync_interval: always }\n')
    for binary in (str(BINARIES / "nats-server"), "nats-server"):
        if (
            shutil.which(binary)
            and not subprocess.run([binary, "-c", str(config), "-t"], capture_output=True, check=False).returncode
        ):
            return "there already"
    if shutil.which("go") is None:
        raise NotInstalled("the server knows no sync_interval (2.10 does), and there is no Go to build a newer one")
    _run(["go", "install", NATS_MODULE], GOBIN=str(BINARIES))
    return f"built {NATS_MODULE.rpartition('@')[2]}"


def kafka() -> str:
    if any(JARS.glob("kafka_*.jar")):
        return "there already"
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise NotInstalled(f"needs {tool}")
    JARS.parent.mkdir(parents=True, exist_ok=True)
    (JARS.parent / "pom.xml").write_text(POM)
    _run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"], JARS.parent)
    return f"installed {KAFKA_VERSION}"


def environment(folder: Path, *packages: str) -> bool:
    """A virtual environment with some packages; False if it is there already."""
    if (folder / "complete").exists():
        return False
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(folder / "bin" / "pip"), "install", "--quiet", *packages])
    return True


def flink() -> str:
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise NotInstalled(f"needs {tool}")
    if not environment(FLINK, f"apache-flink=={FLINK_VERSION}"):
        return "there already"
    (FLINK / "pom.xml").write_text(FLINK_POM)
    _run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={FLINK / 'jars'}"], FLINK)
    (FLINK / "complete").touch()
    return f"installed {FLINK_VERSION}"


def spark() -> str:
    if shutil.which("java") is None:
        raise NotInstalled("needs java")
    if not environment(SPARK, f"pyspark=={SPARK_VERSION}"):
        return "there already"
    (SPARK / "complete").touch()
    return f"installed {SPARK_VERSION}"


STEPS: dict[str, Callable[[], str]] = {
    "Redis and NATS": debian,
    "Python clients": clients,
    "NATS that flushes every message": newer_nats,
    "Kafka": kafka,
    "Flink": flink,
    "Spark": spark,
}


def main(arguments: Sequence[str]) -> int:
    """Prints a line for each step; how many could not be done."""
    if arguments:
        raise SystemExit("usage: python -m bench setup")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, step in STEPS.items():
        try:
            print(f"{name}: {step()}", flush=True)
        except (NotInstalled, OSError) as error:
            failed += 1
            print(f"{name}: skipped, {error}", flush=True)
    return failed
