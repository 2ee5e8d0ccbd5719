"""SQL text -> bound statements: parse (sqlglot's only door), bind names and types, nothing executed here."""
