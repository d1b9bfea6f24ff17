"""Fitting and testing detectors on data sets, and what is reported of it."""
