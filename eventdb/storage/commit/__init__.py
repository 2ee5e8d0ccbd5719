"""The commit section: from rows of this process to a record on the device; commit.py states the legal order."""
