"""Files: atomic writes, restricted readers of weight files, prefetching."""
