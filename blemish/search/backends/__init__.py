"""Vector backends of a store of defects: a folder with Qdrant's engine, and a Qdrant server."""
