"""Retrieval of similar defects from a Qdrant store."""
