"""The helper process that compiles pipelines: `python -m eventdb.kernels.compile_worker`, one JSON request a line.

A compile holds Python's lock for most of 0.3 s; in a process of its own it holds up neither appends nor queries. The
result is a file in the kernel directory, which the asking process loads in milliseconds. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Answers each {"source": text, "tokens": [...]} with {"ok": true} or {"ok": false, "error": text}."""
    if hasattr(os, "nice"):
        os.nice(5)
    from eventdb.kernels import jit

    for line in sys.stdin:
        try:
            request = json.loads(line)
            jit.build(request["source"], tuple(request["tokens"]))
            jit.warm_families(request["source"])
            answer: dict[str, object] = {"ok": True}
        except Exception as error:  # reported to the asking process, which interprets then
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
