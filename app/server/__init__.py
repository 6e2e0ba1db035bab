"""The running server: its settings, its parts put together, and what keeps it clean."""
