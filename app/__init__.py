"""bitbudget's server, client and command line."""
