"""Array functions, each of one paper or one textbook operation."""
