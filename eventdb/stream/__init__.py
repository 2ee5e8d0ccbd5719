"""Continuous queries: a bounded query's plan, advanced over new rows instead of run over all of them.

One mechanism, ContinuousQuery (state + the offset it has read to), is used three ways: the maintainer advances it and
persists state and outputs in one commit, the reader advances its own copy over the rows nobody has maintained yet, the
subscriber advances a private one on each commit and hands out what changed.
"""
