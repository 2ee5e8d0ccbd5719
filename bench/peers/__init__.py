"""The only place that imports rivals."""
