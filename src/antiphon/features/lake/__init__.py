"""The lake: immutable content-addressed Parquet."""
