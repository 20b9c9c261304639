"""What works with the wheel alone: a script, to be run by a Python that has idemstore and no extra."""

import sys
import tempfile

HEAVY = ("asyncio", "sqlite3", "ssl", "importlib.metadata", "multiprocessing", "concurrent.futures", "urllib.request")


def foreign() -> list[str]:
    """The loaded top-level modules that are neither ours nor the standard library's."""
    known = {*sys.stdlib_module_names, "idemstore", "__main__", "no_extras"}
    return sorted({name.partition(".")[0] for name in sys.modules} - known - BEFORE)


BEFORE = {name.partition(".")[0] for name in sys.modules}

import idemstore  # noqa: E402 - what it loads is what is looked at

assert not foreign(), foreign()
loaded = [name for name in HEAVY if name in sys.modules]
assert not loaded, f"import idemstore loads {loaded}"

from idemstore.errors import MissingPackage  # noqa: E402

with tempfile.TemporaryDirectory() as directory:
    for url in ("memory://", f"sqlite:///{directory}/keys.db"):
        with idemstore.open(url) as store:
            claim = store.claim(("tenant", "key"), fingerprint=idemstore.fingerprint({"amount": 1}))
            assert isinstance(claim, idemstore.Claimed), claim
            assert store.complete(("tenant", "key"), claim.token, b"result") == idemstore.Done()
            assert store.claim(("tenant", "key")) == idemstore.Completed(b"result")
assert not foreign(), foreign()

import asyncio  # noqa: E402


async def use_async() -> None:
    """The async face, on both families."""
    with tempfile.TemporaryDirectory() as directory:
        for url in ("memory://", f"sqlite:///{directory}/keys.db"):
            async with idemstore.open_async(url) as store:
                claim = await store.claim("key")
                assert isinstance(claim, idemstore.Claimed), claim
                await store.complete("key", claim.token, b"result")
                assert await store.claim("key") == idemstore.Completed(b"result")


asyncio.run(use_async())
assert not foreign(), foreign()

for scheme, extra in (("redis", "redis"), ("valkey", "redis"), ("redis+cluster", "redis"), ("redis+sentinel", "redis")):
    for opener in (idemstore.open, idemstore.open_async):
        said = ""
        try:
            opener(f"{scheme}://localhost:6379")
        except MissingPackage as error:
            said = str(error)
        assert f"pip install 'idemstore[{extra}]'" in said, (scheme, said)

import subprocess  # noqa: E402

done = subprocess.run([sys.executable, "-m", "idemstore", "demo"], capture_output=True, text=True, check=False)
assert done.returncode == 2, done
assert done.stderr.endswith("pip install 'idemstore[cli]'\n"), done.stderr
assert done.stderr.count("\n") == 1, done.stderr

sys.stdout.write(f"the wheel alone works: {idemstore.__file__}\n")
