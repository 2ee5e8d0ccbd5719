"""Crash tests: real writer processes are killed or lose their power, and a checker reads what is left."""
