"""Small nodes without a model: to learn from, and to try a graph with."""
