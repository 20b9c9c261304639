"""Which files of this folder run: those of families whose client library is there and whose turn it is.

A family whose client library is not installed is left out: the wheel alone is tested, too. So is one that
IDEMSTORE_SUBJECTS leaves out.
"""

from importlib.util import find_spec

from idemstore.testing import families

NEEDS = {
    "dynamodb": ("boto3", "aiobotocore"),
    "mongodb": ("pymongo", "motor"),
    "postgresql": ("asyncpg", "psycopg"),
}
ASKED = {families.FAMILIES[name].module for name in families.names()}

collect_ignore_glob = [
    f"test_{family}_*.py"
    for family, packages in NEEDS.items()
    if family not in ASKED or any(find_spec(package) is None for package in packages)
]
