"""From image files to uint8 RGB arrays and network inputs, and from patch grids back to anomaly maps."""
