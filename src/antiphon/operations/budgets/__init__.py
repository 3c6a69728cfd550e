"""Budgets: their periods, what is spent of them, and the worst case of a request. The core is pure."""
