"""Scripts that print a table and JSON, each with its peers measured in the same run."""
