"""Values for other tools: Delta, Parquet, data frames."""
