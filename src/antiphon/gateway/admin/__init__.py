"""``/admin``: every operation typed, authorised and in OpenAPI; one module per noun."""
