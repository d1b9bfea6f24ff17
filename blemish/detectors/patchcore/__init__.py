"""PatchCore (Roth et al. 2022)."""
