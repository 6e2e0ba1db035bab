"""A worker: claims jobs over HTTP and runs each in a child process.

The agent keeps the lease alive and never imports MLX.
"""
