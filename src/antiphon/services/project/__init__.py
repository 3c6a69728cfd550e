"""The stores of one project, opened as its settings say."""
