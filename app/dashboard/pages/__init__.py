"""One module per page: from what the services return to what a template shows, and no I/O."""
