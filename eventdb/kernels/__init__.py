"""Loops compiled by Numba. One family a file: Numba's cache does not notice an edit in another file.

A kernel takes read-only, C-contiguous arrays and numbers, releases the GIL, allocates nothing, raises nothing: it
returns a code and the operator raises with names. Importing a module of this package (except `cache`) imports Numba,
0.3 s, so operators import them late.
"""
