"""Answers: receipts, the texts that they name, stored answers, and levels of quotas."""
