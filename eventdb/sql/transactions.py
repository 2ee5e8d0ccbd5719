"""BEGIN, COMMIT and ROLLBACK, and PostgreSQL's other words for them."""

from __future__ import annotations

from eventdb.sql.context import Context
from eventdb.sql.statements import Begin, Commit, Rollback
from eventdb.sql.words import Words

_ISOLATIONS = (("REPEATABLE", "READ"), ("READ", "COMMITTED"), ("READ", "UNCOMMITTED"), ("SNAPSHOT",))


def begin(words: Words, context: Context) -> Begin:
    """After BEGIN: [DEFERRED] [TRANSACTION | WORK] [READ ONLY | READ WRITE | ISOLATION LEVEL ...], ...

    Levels weaker than a snapshot are taken for one, as the standard allows.
    """
    if words.word() in ("IMMEDIATE", "EXCLUSIVE"):
        raise words.unsupported(f"BEGIN {words.word()}", "a transaction holds no lock before its COMMIT: write BEGIN")
    words.accept("DEFERRED")
    return _modes(words)


def start(words: Words, context: Context) -> Begin:
    """After START."""
    words.expect("TRANSACTION")
    return _modes(words)


def commit(words: Words, context: Context) -> Commit:
    """After COMMIT or END."""
    _work(words)
    if words.word() == "AND":
        raise words.unsupported("COMMIT AND CHAIN", "write BEGIN after it")
    words.end()
    return Commit()


def rollback(words: Words, context: Context) -> Rollback:
    """After ROLLBACK or ABORT."""
    _work(words)
    if words.word() == "TO":
        raise words.unsupported("ROLLBACK TO a savepoint", "a statement that fails leaves nothing; ROLLBACK ends all")
    words.end()
    return Rollback()


def _work(words: Words) -> None:
    words.accept("TRANSACTION") or words.accept("WORK")


def _modes(words: Words) -> Begin:
    _work(words)
    given: dict[str, str] = {}
    while not words.ended:
        if given:
            words.accept(",")
        at, kind = words.index, "access"
        if words.accept("READ", "ONLY") or words.accept("READ", "WRITE"):
            pass
        elif words.accept("ISOLATION", "LEVEL"):
            if words.word() == "SERIALIZABLE":
                fix = "a transaction reads one snapshot and conflicts on rows it changes: ISOLATION LEVEL SNAPSHOT"
                raise words.unsupported("ISOLATION LEVEL SERIALIZABLE", fix)
            if not any(words.accept(*level) for level in _ISOLATIONS):
                words.wrong("expected SNAPSHOT or REPEATABLE READ")
            kind = "isolation"
        elif words.ended:
            words.wrong("expected a transaction mode")
        else:
            words.end()
        mode = " ".join(words.word_at(i) for i in range(at, words.index))
        if kind in given:
            both = "is given twice" if given[kind] == mode or kind == "isolation" else f"after {given[kind]}"
            raise words.error(f"{'ISOLATION LEVEL' if kind == 'isolation' else mode} {both}", at)
        given[kind] = mode
    return Begin(given.get("access") == "READ ONLY")
