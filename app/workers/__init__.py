"""The workers that registered and what their machines can do."""
