"""Checks of arguments with the one error wording."""
