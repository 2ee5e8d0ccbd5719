"""Statements about a materialized view that is there: ALTER VIEW, REFRESH VIEW, VERIFY VIEW."""

from __future__ import annotations

from eventdb.sql.context import Context
from eventdb.sql.statements import AlterView, RefreshView, VerifyView
from eventdb.sql.words import Words


def alter_view(words: Words, context: Context) -> AlterView:
    """After ALTER: [MATERIALIZED] VIEW v PAUSE | RESUME."""
    words.accept("MATERIALIZED")
    words.expect("VIEW")
    name = words.name("the view's name")
    action = words.word()
    if action not in ("PAUSE", "RESUME"):
        construct = f"ALTER VIEW ... {action or words.text()}".rstrip()
        raise words.unsupported(construct, "write ALTER VIEW v PAUSE, ALTER VIEW v RESUME or CREATE OR REPLACE")
    words.index += 1
    words.end()
    return AlterView(name, action.lower())


def refresh(words: Words, context: Context) -> RefreshView:
    """After REFRESH: [MATERIALIZED] VIEW v."""
    return RefreshView(_view(words))


def verify(words: Words, context: Context) -> VerifyView:
    """After VERIFY: [MATERIALIZED] VIEW v."""
    return VerifyView(_view(words))


def _view(words: Words) -> str:
    words.accept("MATERIALIZED")
    words.expect("VIEW")
    name = words.name("the view's name")
    words.end()
    return name
