"""The steps of a job, one module each."""
