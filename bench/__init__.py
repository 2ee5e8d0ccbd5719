"""Benchmarks: one question per file, rivals only behind bench/peers, side by side in one run."""
