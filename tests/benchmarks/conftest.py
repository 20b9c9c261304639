"""The programs under test lie beside the package, in the repository alone: nothing to test where they are not."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

collect_ignore_glob = [] if (ROOT / "benchmarks").exists() else ["*"]
sys.path.insert(0, str(ROOT))
