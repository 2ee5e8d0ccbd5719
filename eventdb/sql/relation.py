"""A FROM item that is bound: its rows, and the names they are seen under."""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.logical.plan import Plan
from eventdb.sql.scope import Scope


@dataclass(slots=True)
class Relation:
    plan: Plan
    scope: Scope
