"""Programs for those who work on bitbudget; nothing of this is installed."""
