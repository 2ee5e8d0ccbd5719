"""The index: LMDB, the commit authority, the head in front of it, and what their keys say."""
