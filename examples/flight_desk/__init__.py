"""The flight desk: one application answered four ways over replayed days of 2013, and what each way costs."""
