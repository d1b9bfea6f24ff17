"""Array functions, each one paper or one textbook operation."""

__all__ = [
    "conformal",
    "coreset",
    "distance_statistics",
    "gaussian",
    "int8_bounds",
    "least_squares",
    "neighbors",
    "position_gaussian",
    "receptive_field",
    "statistics",
    "tail_probability",
]
