"""Notifications of operations: from the catalog to the channels of the settings, durably.

Parts of the platform hand a notification over in their own transaction (``catalog/notifications.py``). ``sources.py``
tells those that follow from rows of lower rooms, ``orders.py`` orders a run for each channel, ``delivery.py`` sends.
Each kind of channel is a file that renders and sends.
"""
