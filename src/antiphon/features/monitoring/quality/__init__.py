"""Quality of sources and snapshots, and the gates that judge it."""
