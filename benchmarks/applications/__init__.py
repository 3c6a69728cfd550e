"""Projects of ``antiphon init`` from their first command to a release that is stopped."""
