"""What the core itself costs: ``python -m benchmarks.memory [--cycles N] [--rounds N]``.

Claim + complete cycles and replays of one thread on a memory store, where nothing else costs anything, each round on a
new store; and ``import idemstore`` in processes of their own. Medians, and the best round, which other programs on
the machine move less.
"""

import os
import statistics
import subprocess
import sys
import time

import idemstore
from benchmarks.common import Report, parser
from idemstore import Claimed, Completed

RESULT = b"r" * 200
FINGERPRINT = b"f" * 32
IMPORTS = 9
IMPORT = "import time; t = time.process_time(); import idemstore; print(time.process_time() - t)"


def measure(count: int) -> tuple[float, float]:
    """One round: cycles and replays per second."""
    with idemstore.open("memory://") as store:
        keys = [os.urandom(16).hex() for _ in range(count)]
        start = time.perf_counter()
        for key in keys:
            claim = store.claim(key, fingerprint=FINGERPRINT)
            assert isinstance(claim, Claimed)
            store.complete(key, claim.token, RESULT)
        between = time.perf_counter()
        for key in keys:
            assert isinstance(store.claim(key, fingerprint=FINGERPRINT), Completed)
        return count / (between - start), count / (time.perf_counter() - between)


def importing() -> float:
    """CPU milliseconds of ``import idemstore``."""
    command = [sys.executable, "-c", IMPORT]
    times = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(IMPORTS)]
    return statistics.median(times) * 1000


def main() -> None:
    """Measure and print."""
    known = parser(__doc__)
    known.add_argument("--cycles", type=int, default=20_000)
    known.add_argument("--rounds", type=int, default=15)
    options = known.parse_args()
    report = Report("memory", "The core alone: one thread on a memory store")
    rounds = [measure(options.cycles) for _ in range(options.rounds)]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.rounds} rounds of {options.cycles:,}")
    for name, rates in zip(("claim + complete", "replay"), zip(*rounds, strict=True), strict=True):
        print(f"{name:18} {statistics.median(rates):9,.0f} /s   best {max(rates):9,.0f} /s")
        report.row(operation=name, median_per_s=statistics.median(rates), best_per_s=max(rates))
    loading = importing()
    print(f"import idemstore   {loading:9.1f} ms CPU, median of {IMPORTS}")
    report.notes.append(f"import idemstore: {loading:.1f} ms of CPU, median of {IMPORTS}")
    report.write(options.json)


if __name__ == "__main__":
    main()
