"""Heavy work in a process of its own: the one driver that command line, agent and server share.

It starts `python -m bitbudget.workers.child` and imports nothing of the workers.
"""
