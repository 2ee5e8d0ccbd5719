"""`python -m bench NAME [arguments]` runs one benchmark; without a name it lists them."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "setup", "append", "startup", "latency", "engine", "events", "hits", "h2o", "tpch", "sealed", "durable", "batches",
    "replay", "delivery", "reopen", "flash", "tables", "long_life", "files", "memory", "views", "streams",
)  # fmt: skip


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m bench NAME [arguments]\nnames: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    missed: int = importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
