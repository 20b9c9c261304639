"""From URL to backend: look-up order, and an error from ``open`` for whatever is wrong."""

import subprocess
import sys
import types

import pytest

import idemstore
from idemstore import registry
from idemstore.backends.memory import MemoryBackend
from idemstore.errors import (
    ConfigurationError,
    IdemstoreError,
    InvalidUrl,
    MissingPackage,
    UnknownOption,
    UnknownScheme,
    UnsupportedMode,
)

OPENERS = [idemstore.open, idemstore.open_async]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Registrations end with the test."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def module(monkeypatch):
    """A module that can be imported by the name ``sample_backend``."""
    made = types.ModuleType("sample_backend")
    monkeypatch.setitem(sys.modules, "sample_backend", made)
    return made


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("url", "error", "match"),
    [
        ("memroy://", UnknownScheme, "did you mean memory://"),
        ("zzzzzz://", UnknownScheme, "known schemes: .*memory"),
        ("memory", InvalidUrl, "scheme://"),
        (None, InvalidUrl, "str"),
        ("memory://?max_recordz=5", UnknownOption, "did you mean 'max_records'"),
        ("memory://?max_records=0", UnknownOption, "from 1"),
        ("memory://host:1", InvalidUrl, "a name and nothing else"),
        ("memory://user@host", InvalidUrl, "a name and nothing else"),
        ("memory://a,b", InvalidUrl, "a name and nothing else"),
        ("memory://a/b", InvalidUrl, "a name and nothing else"),
    ],
)
def test_errors_come_from_open(opener, url, error, match):
    """Never inside the first call."""
    with pytest.raises(error, match=match) as caught:
        opener(url)
    assert isinstance(caught.value, IdemstoreError)


def test_own_backend(module):
    """A registered backend serves its scheme, in both modes; schemes know it."""
    module.backend = MemoryBackend()
    idemstore.register("Sample", "sample_backend:backend")
    assert isinstance(idemstore.open("sample://"), idemstore.Store)
    assert isinstance(idemstore.open_async("SAMPLE://"), idemstore.AsyncStore)
    assert "sample" in idemstore.schemes()


def test_registered_comes_before_built_in(module):
    """A program may replace a built-in backend."""
    calls = []

    class Mine(MemoryBackend):
        def open(self, url):
            calls.append(url)
            return super().open(url)

    module.backend = Mine()
    idemstore.register("memory", "sample_backend:backend")
    idemstore.open("memory://")
    assert len(calls) == 1


def test_entry_points_come_last(monkeypatch, module):
    """An installed package serves a scheme that nobody else does."""
    module.backend = MemoryBackend()
    points = {"point": "sample_backend:backend", "memory": "nowhere:backend"}
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    assert isinstance(idemstore.open("point://"), idemstore.Store)
    assert isinstance(idemstore.open("memory://"), idemstore.Store)
    assert "point" in idemstore.schemes()


@pytest.mark.parametrize("target", ["", "module", "module:", ":attribute", ":"])
def test_bad_registrations(target):
    """A target names a module and an attribute."""
    with pytest.raises(ConfigurationError, match="module:attribute"):
        idemstore.register("sample", target)


def test_bad_scheme_registration():
    """A scheme has a name."""
    with pytest.raises(ConfigurationError):
        idemstore.register("", "module:attribute")


@pytest.mark.parametrize("opener", OPENERS)
def test_backends_that_cannot_be_loaded(opener, module):
    """No module, no attribute, no backend: each says which."""
    idemstore.register("sample", "no_such_module_at_all:backend")
    with pytest.raises(ConfigurationError, match="no_such_module_at_all"):
        opener("sample://")
    idemstore.register("sample", "sample_backend:nothing")
    with pytest.raises(ConfigurationError, match="nothing"):
        opener("sample://")
    module.backend = object()
    idemstore.register("sample", "sample_backend:backend")
    with pytest.raises(ConfigurationError, match="no Backend"):
        opener("sample://")


def test_error_of_a_backend_passes(module):
    """What a backend refuses is not disguised."""

    class OneMode(MemoryBackend):
        def open(self, url):
            raise UnsupportedMode("sample:// is async only: use open_async")

    module.backend = OneMode()
    idemstore.register("sample", "sample_backend:backend")
    with pytest.raises(UnsupportedMode, match="open_async"):
        idemstore.open("sample://")


def test_missing_package_names_the_command():
    """With the exact pip install."""
    with pytest.raises(MissingPackage, match=r"pip install 'idemstore\[extra\]'") as caught:
        registry.need("no_such_package.part", "extra")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ConfigurationError)
    assert registry.need("json", "extra").__name__ == "json"


def test_missing_module_of_a_package_is_not_a_missing_package(monkeypatch, tmp_path):
    """A package that is there but broken is not taken for absent."""
    (tmp_path / "broken_client.py").write_text("import something_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs") as caught:
        registry.need("broken_client", "extra")
    assert not isinstance(caught.value, MissingPackage)


def test_import_loads_no_client_and_no_asyncio():
    """``import idemstore`` is light: client libraries, asyncio and entry points wait until they are asked for."""
    script = (
        "import sys, idemstore; store = idemstore.schemes; "
        "print([name for name in ('asyncio', 'redis', 'sqlite3', 'hypothesis', 'pytest', 'importlib.metadata') "
        "if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_lazy_name():
    """AsyncStore is found on the package; an unknown name is an AttributeError."""
    from idemstore.async_store import AsyncStore

    assert idemstore.AsyncStore is AsyncStore
    with pytest.raises(AttributeError, match="nonsense"):
        idemstore.nonsense  # noqa: B018
