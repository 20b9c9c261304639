"""Batches for queue consumers: claim many messages in one round trip, run what is new, complete in batches.

The window in which a crash repeats work grows with what has run and is not yet recorded: ``flush_every`` bounds it.
"""
