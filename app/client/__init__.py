"""The server's interface as typed Python calls."""
