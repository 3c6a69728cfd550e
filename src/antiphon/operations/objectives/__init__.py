"""Objectives held against what happened: error budgets, burn rates, and alerts."""
