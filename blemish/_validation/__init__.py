"""Checks of arguments, with one template of error messages."""
