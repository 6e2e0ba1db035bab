"""What is done with a finished checkpoint by the worker that holds it."""
