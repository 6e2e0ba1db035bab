"""Machines: the workers that registered and what they can do."""
