"""Recovery that moves codes, against training scales alone."""
