"""The gateway: speaks HTTP to users and programs. It authenticates, translates and streams; it decides nothing."""
