"""What every route shares: problem documents, pages, limits, logs, metrics, documentation."""
