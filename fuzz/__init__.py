"""Fuzzers of everything that reads a stranger's file."""
