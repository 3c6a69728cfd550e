"""Budgets of one project: declared, reserved of before work is dispatched, charged with its receipt, warned of."""
