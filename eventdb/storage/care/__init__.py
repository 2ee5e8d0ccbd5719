"""Care: opening and recovery, check and repair, backup, retention, and the background thread."""
