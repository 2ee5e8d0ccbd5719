"""PREPARE name AS statement, EXECUTE name (values), DEALLOCATE name."""

from __future__ import annotations

from eventdb.logical.expressions import Literal
from eventdb.logical.plan import OutputField, Project, Values
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.scope import Scope
from eventdb.sql.statements import Deallocate, Execute, Prepare
from eventdb.sql.words import Words


def prepare(words: Words, context: Context) -> Prepare:
    """The statement after PREPARE. Its text is bound when it is executed, with the types of the values."""
    name = words.name("a name for the statement")
    if words.word() == "(":
        raise words.unsupported("PREPARE with types", "the values of EXECUTE bring theirs: CAST($1 AS type)")
    words.expect("AS")
    if words.ended:
        words.wrong("expected a statement")
    if words.word() in ("PREPARE", "EXECUTE", "DEALLOCATE"):
        raise words.unsupported(f"PREPARE of {words.word()}")
    text = context.sql[words.tokens[words.index].start :].strip().rstrip(";")
    return Prepare(name.lower(), text)


def execute(words: Words, context: Context) -> Execute:
    """The statement after EXECUTE: name [(value, ...) | (name := value, ...)]."""
    name = words.name("the name of a prepared statement").lower()
    values: list[Literal] = []
    named: list[tuple[str, Literal]] = []
    if words.word() == "(" and words.word(1) != ")":
        words.elements(lambda: _value(words, context, values, named))
    elif words.accept("("):
        words.expect(")")
    words.end()
    return Execute(name, tuple(values), tuple(named))


def deallocate(words: Words, context: Context) -> Deallocate:
    """The statement after DEALLOCATE: [PREPARE] name | ALL."""
    words.accept("PREPARE")
    name = "" if words.accept("ALL") else words.name("the name of a prepared statement").lower()
    words.end()
    return Deallocate(name)


def _value(words: Words, context: Context, values: list[Literal], named: list[tuple[str, Literal]]) -> None:
    at, name = words.index, ""
    for sign in ((":", "="), (":=",), ("=>",)):
        if all(words.word(1 + i) == part for i, part in enumerate(sign)):
            name = words.text()
            words.index += 1 + len(sign)
    start = words.index
    comma, close = words.at_depth_zero(start, ","), _closing(words, start)
    words.index = close if comma is None else min(comma, close)
    if words.index == start:
        words.wrong("expected a value")
    bound = ExpressionBinder(context, Scope([], []), "EXECUTE").bind(words.source.expression(start, words.index))
    plan = fold_constants(Project(Values(((),), ()), (bound,), (OutputField("", bound.type),)))
    assert isinstance(plan, Project)
    (found,) = plan.expressions
    if not isinstance(found, Literal):
        raise words.unsupported("a value of EXECUTE that is not a constant", "give the value itself", at)
    if (values and name) or (named and not name):
        raise words.error("give all values by position, or all by name", at)
    if any(name == known for known, _ in named):
        raise words.error(f"the parameter ${name} is given twice", at)
    if name:
        named.append((name, found))
    else:
        values.append(found)


def _closing(words: Words, start: int) -> int:
    """Where the bracket around the values closes."""
    depth = 0
    for i in range(start, words.stop):
        depth += (words.word_at(i) == "(") - (words.word_at(i) == ")")
        if depth < 0:
            return i
    return words.stop
