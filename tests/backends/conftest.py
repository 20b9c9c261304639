"""Tests of a family whose client library is not installed are left out: the wheel alone is tested, too."""

from importlib.util import find_spec

NEEDS = {"test_dynamodb_*.py": ("boto3", "aiobotocore")}

collect_ignore_glob = [
    pattern for pattern, packages in NEEDS.items() if any(find_spec(package) is None for package in packages)
]
