"""Cost: what was used, priced. The core is pure; the ledger is ``catalog/ledger.py``."""
