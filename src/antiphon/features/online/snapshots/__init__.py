"""The stored form of an online snapshot and its building, the same for every store."""
