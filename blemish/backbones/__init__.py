"""Pretrained networks as feature extractors: registry, architectures, weights, patch embedding."""
