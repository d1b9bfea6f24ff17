"""Images: headers, decoding, resizing, geometry of the network input, and anomaly maps."""

__all__ = ["anomaly_map", "decode", "geometry", "headers", "png", "resize"]
