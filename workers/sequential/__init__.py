"""Coding layer by layer, each against what the coded layers before it really pass on."""

from bitbudget.workers.sequential.coding import Plan, code_sequentially, read_coded

__all__ = ["Plan", "code_sequentially", "read_coded"]
