"""Where vectors are stored: Qdrant's engine in process, or a server."""
