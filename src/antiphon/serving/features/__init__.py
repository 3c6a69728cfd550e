"""Features of a request: read, held to their contracts, printed and looked up."""
