"""EXPLAIN of operators: what runs, on which engine, and after running it, how many rows and how long."""

from __future__ import annotations

from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator


def physical_lines(operator: Operator, depth: int = 0) -> list[str]:
    """The operators as indented lines, root first, each with its engine."""
    lines = [f"{'  ' * depth}{operator.label()} [{operator.engine}]"]
    for child in operator.children:
        lines.extend(physical_lines(child, depth + 1))
    return lines


def analyzed_lines(operator: Operator, context: QueryContext, depth: int = 0) -> list[str]:
    """The same after a measured run: rows and batches each operator returned, the time inside it and inside it with
    everything below, and the most memory it held."""
    metrics = context.metrics_of(operator)
    below_us = sum(context.metrics_of(child).elapsed_us for child in operator.children)
    own_ms, total_ms = max(0, metrics.elapsed_us - below_us) / 1000, metrics.elapsed_us / 1000
    line = f"{'  ' * depth}{operator.label()} [{operator.engine}]"
    line += f" rows={metrics.row_count} batches={metrics.batch_count} own={own_ms:.3f} ms total={total_ms:.3f} ms"
    if metrics.memory_bytes:
        line += f" memory={metrics.memory_bytes} bytes"
    lines = [line]
    for child in operator.children:
        lines.extend(analyzed_lines(child, context, depth + 1))
    return lines
