"""answer(): one function for both paths."""
