"""The conductor: deadlines, quiet times, freezes, and the time that its decisions take."""
