"""Safety suites: probes from files, the places they are put in, and checkers that share nothing with guards."""
