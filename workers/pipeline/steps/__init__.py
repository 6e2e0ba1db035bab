"""The steps of a task, a module each: `run_step` takes the run and returns what the step makes.

A module may say with `is_needed` that a run does without its step; then it is not shown.
"""
