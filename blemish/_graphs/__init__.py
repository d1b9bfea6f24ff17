"""ONNX graphs: building, importing, checking and rewriting them."""
