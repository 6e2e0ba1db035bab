"""The child process in which heavy work runs: `python -m bitbudget.workers.child`."""
