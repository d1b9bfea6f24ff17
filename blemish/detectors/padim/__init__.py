"""PaDiM (Defard et al. 2021)."""
