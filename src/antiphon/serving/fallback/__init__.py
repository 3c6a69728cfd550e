"""Engines that an answer may come from, and substitutes when none of them answers."""
