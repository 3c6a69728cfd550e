"""``/admin``: every operation typed, authorized and in OpenAPI; one module per noun."""
