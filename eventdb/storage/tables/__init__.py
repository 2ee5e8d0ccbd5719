"""Tables: logs whose rows have a key, the marks on superseded rows, and compaction."""
