"""Sealed segments: history as encoded blocks, how they are written, read, and take the place of raw ones."""
