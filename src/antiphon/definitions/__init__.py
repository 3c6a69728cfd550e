"""Declarations of a user as frozen values; nothing here reads or writes anything but the declaration itself."""
