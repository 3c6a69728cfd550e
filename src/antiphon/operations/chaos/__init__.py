"""Chaos experiments: faults that are begun on purpose, and the steady state that is to hold meanwhile.

``experiment.py`` states the values of Chaos Toolkit's format and ``reading.py`` reads them; ``tolerance.py``,
``steady_state.py``, ``blast_radius.py`` and ``report.py`` are pure. ``performance.py`` is the flow of one experiment.
At the edge: ``guardian.py`` holds one fault in a process of its own, ``injectors.py`` and ``tcp_proxy.py`` do it,
``probes.py`` measures and ``question_load.py`` asks.

Nothing here is shared with what must catch the faults: neither thresholds, nor the code that restarts, retries or
degrades.
"""
