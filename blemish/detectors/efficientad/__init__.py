"""EfficientAD (Batzner et al. 2024)."""
