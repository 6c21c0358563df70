"""The parametric models, category by category."""
