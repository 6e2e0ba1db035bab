"""Artifacts: files that jobs produce, stored under their digest."""
