"""``idemstore demo``: proof, on the reader's own machine and server, that every key is executed once.

Worker processes all ask for the same keys at once. Each execution *charges a card*: one line in a ledger that knows
nothing of idempotency, as a payment provider's book. Meanwhile workers are killed (SIGKILL), put to sleep past their
leases, and started again. At the end every key must have one charge, and every caller the same receipt.

What makes that true although a worker can die at any instant is the recipe of ``worker.py``, three steps long:

1. Before the charge, save a checkpoint ("about to charge"). A claim that was lost meanwhile ends here.
2. Charge, and show the fence of the claim. The ledger refuses a fence that is older than one it has seen for the key.
3. Complete with the receipt.

Whoever takes over sees the checkpoint. None: nobody has charged, and nobody with an older claim can any more, since
step 1 would fail. One: the charge may have been made, so ask the ledger first, showing the new fence; that shuts older
owners out before it answers. No store can do without this: between a charge and its completion lies an instant in which
only the provider knows.

The verdict is worked out from files that the *workers* append to (the ledger, and one journal each), never from what
the store says. A store that hands a key out twice therefore fails, and the keys are named.
"""
