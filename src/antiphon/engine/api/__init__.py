"""The engine's interface: messages, the port that callers use, and client and server on a Unix socket."""
