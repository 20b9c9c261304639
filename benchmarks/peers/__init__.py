"""Other libraries beside this one: the same job on the same server, in turns. ``python -m benchmarks.peers``.

One module per library; each uses it exactly as its own README (or, where that shows no code, its docstrings) does. The
job: run a function once for a key and keep its small result; then ask for the same keys again.

    python -m pip install --group peers
"""
