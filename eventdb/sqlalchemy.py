"""The SQLAlchemy dialect: create_engine("eventdb:///plant.eventdb"). Needs `pip install eventdb[sqlalchemy]`.

`eventdb:///relative/path`, `eventdb:////absolute/path`, `eventdb://` (a private temporary one); options of
`eventdb.connect` follow as a query: `?durability=os&read_only=true`. A Table with a primary key is a table of EventDB,
one without is a topic (`eventdb_key` and `eventdb_event_time` name columns) unless `eventdb_kind="table"`. Keys are
given by the program: there is no autoincrement. EventDB has no foreign keys and no secondary indexes: those of a Table
are left out with a warning; UNIQUE and CHECK are refused. Transactions are those of `eventdb.dbapi`, with its isolation
levels and "AUTOCOMMIT".
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc, pool, schema, types, util
from sqlalchemy.engine import default, reflection
from sqlalchemy.engine.url import URL
from sqlalchemy.sql import compiler

from eventdb.errors import TopicNotFound
from eventdb.schema import MAX_DECIMAL_DIGITS, DataType

DEFAULT_DECIMAL = "DECIMAL(18, 3)"  # of a Numeric without digits
_TYPES: dict[str, type[types.TypeEngine[Any]]] = {
    "BOOLEAN": types.BOOLEAN, "TINYINT": types.SMALLINT, "SMALLINT": types.SMALLINT, "INTEGER": types.INTEGER,
    "BIGINT": types.BIGINT, "FLOAT": types.REAL, "DOUBLE": types.DOUBLE, "VARCHAR": types.VARCHAR, "BLOB": types.BLOB,
    "DATE": types.DATE, "TIMESTAMP": types.TIMESTAMP, "INTERVAL": types.Interval, "NULL": types.NullType,
}  # fmt: skip
_OPTIONS = ("durability", "read_only", "memory_limit", "threads", "autocommit", "isolation", "timeout")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def column_type(type: DataType) -> types.TypeEngine[Any]:
    """SQLAlchemy's type for one of EventDB's."""
    if type.name == "DECIMAL":
        return types.DECIMAL(type.precision, type.scale)
    return _TYPES[type.name]()


def _kind(table: schema.Table) -> str:
    """TABLE or TOPIC."""
    keyed = bool(table.primary_key.columns)
    kind = table.dialect_options["eventdb"]["kind"] or ("table" if keyed else "topic")
    if kind not in ("table", "topic") or (keyed and kind == "topic"):
        raise exc.CompileError(
            f"table {table.name!r}: eventdb_kind is 'table' or 'topic', which has no primary key, not {kind!r}"
        )
    return str(kind).upper()


class EventDBCompiler(compiler.SQLCompiler):
    def visit_empty_set_expr(self, element_types: Any, **kw: Any) -> str:
        columns = ", ".join("CAST(NULL AS INTEGER)" for _ in element_types or [None])
        return f"SELECT {columns} WHERE 1 != 1"

    def limit_clause(self, select: Any, **kw: Any) -> str:
        parts = (("LIMIT", select._limit_clause), ("OFFSET", select._offset_clause))
        return "".join(f"\n {word} {self.process(part, **kw)}" for word, part in parts if part is not None)

    def for_update_clause(self, select: Any, **kw: Any) -> str:
        """Nothing: no row is locked, a transaction that comes second is told so at its commit."""
        return ""

    def visit_now_func(self, fn: Any, **kw: Any) -> str:
        return "now()"


class EventDBTypeCompiler(compiler.GenericTypeCompiler):
    def visit_FLOAT(self, type_: Any, **kw: Any) -> str:
        return "FLOAT" if type_.precision is not None and type_.precision <= 24 else "DOUBLE"

    def visit_REAL(self, type_: Any, **kw: Any) -> str:
        return "FLOAT"

    def visit_DOUBLE(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    def visit_DOUBLE_PRECISION(self, type_: Any, **kw: Any) -> str:
        return "DOUBLE"

    def visit_NUMERIC(self, type_: Any, **kw: Any) -> str:
        if type_.precision is None:
            return DEFAULT_DECIMAL
        if type_.precision > MAX_DECIMAL_DIGITS:
            raise exc.CompileError(
                f"Numeric({type_.precision}): DECIMAL holds at most {MAX_DECIMAL_DIGITS} digits; use fewer, or Double"
            )
        return f"DECIMAL({type_.precision}, {type_.scale or 0})"

    visit_DECIMAL = visit_NUMERIC

    def visit_DATETIME(self, type_: Any, **kw: Any) -> str:
        return "TIMESTAMP"  # UTC; a value with a time zone is converted

    visit_TIMESTAMP = visit_DATETIME

    def visit_TIME(self, type_: Any, **kw: Any) -> str:
        raise exc.CompileError("EventDB has no TIME: use DateTime, Interval or a number")

    def _text(self, type_: Any, **kw: Any) -> str:
        return "VARCHAR"  # of any length

    visit_CHAR = visit_NCHAR = visit_VARCHAR = visit_NVARCHAR = visit_TEXT = visit_CLOB = visit_JSON = _text

    def visit_BLOB(self, type_: Any, **kw: Any) -> str:
        return "BLOB"

    visit_BINARY = visit_VARBINARY = visit_large_binary = visit_BLOB


class EventDBDDLCompiler(compiler.DDLCompiler):
    def visit_create_table(self, create: Any, **kw: Any) -> str:
        table = create.element
        if table.schema:
            raise exc.CompileError(f"table {table.name!r}: EventDB has no schemas, but it is in {table.schema!r}")
        kind = _kind(table)
        exists = "IF NOT EXISTS " if create.if_not_exists else ""
        parts = [self.process(column) for column in create.columns]
        parts += self._clauses(table)
        lines = ",\n\t".join(parts)
        return f"\nCREATE {kind} {exists}{self.preparer.format_table(table)} (\n\t{lines}\n)\n\n"

    def _clauses(self, table: schema.Table) -> list[str]:
        """PRIMARY KEY, KEY and TIMESTAMP; what cannot be kept is refused, or warned of if it changes no result."""
        clauses = []
        names = [self.preparer.format_column(column) for column in table.primary_key.columns]
        if names:
            clauses.append(f"PRIMARY KEY ({', '.join(names)})")
        options = table.dialect_options["eventdb"]
        for option, clause in (("key", "KEY"), ("event_time", "TIMESTAMP")):
            if options[option]:
                if _kind(table) == "TABLE":
                    raise exc.CompileError(f"table {table.name!r}: eventdb_{option} is for topics, without primary key")
                clauses.append(f"{clause} ({self.preparer.quote(options[option])})")
        for constraint in sorted(table.constraints, key=lambda c: str(c.name)):
            if isinstance(constraint, schema.ForeignKeyConstraint):
                util.warn(f"table {table.name!r}: EventDB does not enforce foreign keys; the constraint is left out")
            # Boolean and Enum bring a check that nobody needs here.
            elif isinstance(constraint, schema.UniqueConstraint | schema.CheckConstraint) and not getattr(
                constraint, "_type_bound", False
            ):
                kind = type(constraint).__name__
                raise exc.CompileError(f"table {table.name!r}: EventDB has no {kind}; only primary keys are unique")
        return clauses

    def get_column_specification(self, column: Any, **kw: Any) -> str:
        if column.computed is not None or column.identity is not None:
            raise exc.CompileError(f"column {column.name!r}: EventDB has no computed and no identity columns")
        kind = self.dialect.type_compiler_instance.process(column.type, type_expression=column)
        text = f"{self.preparer.format_column(column)} {kind}"
        given = self.get_column_default_string(column)
        if given is not None:
            text += f" DEFAULT {given}"
        return text if column.nullable else text + " NOT NULL"

    def visit_drop_table(self, drop: Any, **kw: Any) -> str:
        table = drop.element
        kind = _kind(table)
        exists = "IF EXISTS " if drop.if_exists else ""
        return f"\nDROP {kind} {exists}{self.preparer.format_table(table)}"

    def visit_create_index(self, create: Any, *arguments: Any, **kw: Any) -> str:
        index = create.element
        if index.unique:
            raise exc.CompileError(f"index {index.name!r}: EventDB has no unique indexes; only primary keys are unique")
        util.warn(f"index {index.name!r} is left out: EventDB has no secondary indexes")
        return ""

    def visit_drop_index(self, drop: Any, **kw: Any) -> str:
        return ""


class EventDBPreparer(compiler.IdentifierPreparer):
    def _requires_quotes(self, value: str) -> bool:
        return True


class EventDBDialect(default.DefaultDialect):
    name = "eventdb"
    driver = "eventdb"
    default_paramstyle = "qmark"
    statement_compiler = EventDBCompiler
    ddl_compiler = EventDBDDLCompiler
    type_compiler_cls = EventDBTypeCompiler
    preparer = EventDBPreparer
    construct_arguments = [(schema.Table, {"kind": None, "key": None, "event_time": None})]  # noqa: RUF012
    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_multivalues_insert = True
    supports_default_values = False
    supports_empty_insert = False
    supports_alter = False
    supports_sane_rowcount = True
    supports_sane_multi_rowcount = True
    supports_sequences = False
    supports_comments = False
    postfetch_lastrowid = False
    supports_native_uuid = False
    tuple_in_values = False
    max_identifier_length = 255
    default_schema_name = None

    @classmethod
    def import_dbapi(cls) -> Any:
        from eventdb import dbapi

        return dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:
        return pool.StaticPool if cls._path(url) == ":memory:" else pool.QueuePool

    @staticmethod
    def _path(url: URL) -> str:
        return url.database or ":memory:"

    def create_connect_args(self, url: URL) -> Any:
        if url.host or url.username:
            raise exc.ArgumentError(f"{url}: EventDB has no server; write eventdb:///path or eventdb:////absolute/path")
        options: dict[str, Any] = {}
        for name, value in url.query.items():
            if name not in _OPTIONS:
                raise exc.ArgumentError(f"{url}: there is no option {name!r}; the options are {', '.join(_OPTIONS)}")
            if not isinstance(value, str):
                raise exc.ArgumentError(f"{url}: {name} is given twice")
            options[name] = value
        flag = _BOOLEANS.__getitem__
        for name, read in (("read_only", flag), ("autocommit", flag), ("threads", int), ("timeout", float)):
            if name in options:
                try:
                    options[name] = read(options[name].lower())
                except (KeyError, ValueError):
                    raise exc.ArgumentError(f"{url}: {name} cannot be {options[name]!r}") from None
        return [self._path(url)], options

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if statement:  # an index that is left out has none
            cursor.execute(statement, parameters)

    def do_savepoint(self, connection: Any, name: str) -> None:
        raise exc.CompileError("EventDB has no savepoints: begin_nested() cannot be undone by itself")

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return isinstance(e, self.loaded_dbapi.InterfaceError)

    # --- isolation ----------------------------------------------------------------------------------------------------

    def get_isolation_level_values(self, dbapi_conn: Any) -> Any:
        return ["READ COMMITTED", "SNAPSHOT", "AUTOCOMMIT"]

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        return "READ COMMITTED"

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return "AUTOCOMMIT" if dbapi_connection.autocommit else dbapi_connection.isolation

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        dbapi_connection.autocommit = level == "AUTOCOMMIT"
        dbapi_connection.isolation = "READ COMMITTED" if level == "AUTOCOMMIT" else level

    # --- inspection ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _database(connection: Any) -> Any:
        return connection.connection.dbapi_connection.database

    def _views(self, connection: Any) -> list[Any]:
        database = self._database(connection)
        database._refresh_catalog()
        return [*database._catalog.views(), *database._catalog.plain_views().values()]

    def _info(self, connection: Any, name: str) -> Any:
        """What the catalog says of a topic, table or view."""
        from eventdb.names import Names

        database = self._database(connection)
        database._refresh_catalog()
        try:
            return Names(database).table(name)
        except TopicNotFound:
            raise exc.NoSuchTableError(name) from None

    @reflection.cache
    def get_table_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        """Topics and tables."""
        database = self._database(connection)
        return [] if schema else sorted([*database.topics(), *database.tables()])

    @reflection.cache
    def get_view_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        """All views, the materialized ones among them."""
        return [] if schema else sorted(view.name for view in self._views(connection))

    @reflection.cache
    def get_materialized_view_names(self, connection: Any, schema: str | None = None, **kw: Any) -> list[str]:
        return [] if schema else sorted(view.name for view in self._views(connection) if not view.is_plain)

    @reflection.cache
    def get_view_definition(self, connection: Any, view_name: str, schema: str | None = None, **kw: Any) -> str:
        """The whole CREATE statement."""
        for view in self._views(connection):
            if view.name.lower() == view_name.lower():
                quoted = self.identifier_preparer.quote(view.name)
                return f"CREATE VIEW {quoted} AS {view.sql}" if view.is_plain else str(view.sql)
        raise exc.NoSuchTableError(view_name)

    @reflection.cache
    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> bool:
        if schema:
            return False
        try:
            self._info(connection, table_name)
        except exc.NoSuchTableError:
            return False
        return True

    @reflection.cache
    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        info = self._info(connection, table_name)
        defaults = dict(info.defaults)
        return [
            {
                "name": field.name,
                "type": column_type(field.type),
                "nullable": field.nullable,
                "default": _written(field.type, defaults[i]) if defaults.get(i) is not None else None,
                "autoincrement": False,
            }
            for i, field in enumerate(info.schema)
        ]

    @reflection.cache
    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        info = self._info(connection, table_name)
        return {"constrained_columns": [info.schema.names[i] for i in info.primary_key], "name": None}

    @reflection.cache
    def get_table_options(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        info = self._info(connection, table_name)
        if info.kind != "topic":
            return {"eventdb_kind": info.kind} if info.kind == "table" else {}
        return {"eventdb_kind": info.kind, "eventdb_key": info.key, "eventdb_event_time": info.event_time}

    def get_foreign_keys(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return self._none(connection, table_name)

    def get_indexes(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return self._none(connection, table_name)

    def get_unique_constraints(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return self._none(connection, table_name)

    def get_check_constraints(self, connection: Any, table_name: str, schema: str | None = None, **kw: Any) -> Any:
        return self._none(connection, table_name)

    def _none(self, connection: Any, table_name: str) -> list[Any]:
        """There is none of them, but the table must be there."""
        self._info(connection, table_name)
        return []

    def get_schema_names(self, connection: Any, **kw: Any) -> list[str]:
        return []


def _written(type: DataType, value: Any) -> str:
    """A default as SQL text."""
    from eventdb.values import decode_value

    found = decode_value(type, value)
    if isinstance(found, str):
        return "'" + found.replace("'", "''") + "'"
    if isinstance(found, bool):
        return str(found).lower()
    if type.name in ("DATE", "TIMESTAMP"):
        return f"{type.name} '{found}'"
    return f"x'{found.hex()}'" if isinstance(found, bytes) else str(found)
