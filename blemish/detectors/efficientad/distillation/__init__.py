"""Distillation of a teacher network (Batzner et al. 2024, section 3.1)."""
