"""Leases: how a worker takes a job, keeps it and answers for it."""
