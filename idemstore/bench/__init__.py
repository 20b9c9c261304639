"""``idemstore bench``: how fast a store is beside the floor of its own client library, measured in the same run.

A *sample* is one scenario with so many callers for a moment, on the store or on its *floor*: the same number of bare
calls of the same client library. Both are taken in turns, in processes of their own; the command draws and judges.
"""
