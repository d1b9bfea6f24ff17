"""Bytes and files: atomic writes, restricted readers of weight files, reading ahead."""
