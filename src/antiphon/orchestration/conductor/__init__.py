"""The conductor: decides what declared schedules have due, orders it, and says why anything waits."""
