"""Segments: raw rows in mapped files, their columns, and the ways to find some of them."""
