"""The flight desk over a month."""
