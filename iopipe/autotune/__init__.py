"""Finds how many threads, batches ahead and bytes a read a run is fed best with, while it runs.

Stands beside the meter, whose windows it judges by, and above the engine, whose knobs it turns.
Invariant: what is tuned changes how fast batches come, never which or in what order.
"""
