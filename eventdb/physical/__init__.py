"""How a plan runs: operators over batches, interpreted with NumPy or compiled into fused pipelines."""
