"""bitbudget in a notebook: the tasks of the command line as Python objects."""
