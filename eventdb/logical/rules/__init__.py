"""Optimiser rules, one a file: each is a pure function plan -> plan that keeps every row, order and error that matters.

An expression that may raise is never moved to where it would be evaluated on more rows than before.
"""
