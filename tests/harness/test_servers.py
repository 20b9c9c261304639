"""The server harness: what it starts is real, obeys, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from idemstore.testing import servers
from idemstore.testing.servers import Member, Server, ServerFailed, ServerUnavailable
from idemstore.testing.servers.catalog import required
from idemstore.testing.servers.process import Process
from idemstore.testing.servers.resp import call, info
from idemstore.testing.servers.waiting import Address, NotReady, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers by name, skip where they cannot be had, and stop them in the end."""
    started: list[Server] = []

    def begin(name: str, **options: dict[str, str]) -> Server:
        try:
            server = servers.start(name, **options)
        except ServerFailed:
            raise
        except ServerUnavailable as error:
            pytest.skip(str(error))
        started.append(server)
        return server

    yield begin
    for server in started:
        server.stop()


def address(url: str) -> Address:
    """Where the first host of a URL listens."""
    first = urlsplit(url).netloc.rpartition("@")[2].partition(",")[0]
    host, _, port = first.partition(":")
    return Address(host, int(port))


def accepts(where: Address) -> bool:
    """Whether anything listens there."""
    try:
        socket.create_connection(where, 1).close()
    except OSError:
        return False
    return True


def pids(server: Server) -> set[int]:
    """The processes of a server (none if it runs in Docker)."""
    return {member.pid for member in server.members.values() if isinstance(member, Process)}


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def python(code: str, **variables: str) -> subprocess.Popen[str]:
    """Run a piece of Python with the library in reach."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("name", servers.NAMES)
def test_starts_answers_and_stops(start: Callable[..., Server], name: str) -> None:
    """Every server of the catalogue starts, tells its version, and is gone after stop, processes and files."""
    server = start(name)
    where, processes = address(server.url), pids(server)
    assert server.name == name
    assert any(character.isdigit() for character in server.version)
    assert server.origin in ("docker", "process")
    assert accepts(where)
    assert all(member.running() for member in server.members.values())
    server.stop()
    server.stop()
    assert not accepts(where)
    assert not any(alive(pid) for pid in processes)


@pytest.mark.parametrize("name", [name for name in servers.NAMES if name not in ("redis-cluster", "redis-sentinel")])
def test_kill_and_restart_keep_the_port(start: Callable[..., Server], name: str) -> None:
    """A killed server is unreachable; restarted, it answers at the same address."""
    server = start(name)
    where = address(server.url)
    server.kill()
    assert not accepts(where)
    assert not any(member.running() for member in server.members.values())
    server.restart()
    assert accepts(where)
    assert all(member.running() for member in server.members.values())


@pytest.mark.parametrize("name", ["redis", "valkey", "redis8"])
def test_pause_stalls_and_resume_goes_on(start: Callable[..., Server], name: str) -> None:
    """A paused server accepts connections but answers nothing; resumed, it answers again."""
    server = start(name)
    where = address(server.url)
    server.pause()
    with pytest.raises(TimeoutError):
        call(where, "PING")
    server.resume()
    assert call(where, "PING") == "PONG"


def test_paused_server_can_be_stopped(start: Callable[..., Server]) -> None:
    """Stop and restart work on a frozen server, too."""
    server = start("redis")
    server.pause()
    server.restart()
    assert call(address(server.url), "PING") == "PONG"
    server.pause()
    server.stop()
    assert not accepts(address(server.url))


def test_redis_endpoints(start: Callable[..., Server]) -> None:
    """The second listener demands its password; the socket and the certificate exist where they are promised."""
    server = start("redis")
    locked = address(server.endpoints["auth"])
    with pytest.raises(NotReady, match="NOAUTH"):
        call(locked, "PING")
    assert call(locked, "PING", password="s3cret") == "PONG"
    if "unix" in server.endpoints:
        assert Path(urlsplit(server.endpoints["unix"]).path).is_socket()
    if "tls" in server.endpoints:
        assert accepts(address(server.endpoints["tls"]))


def test_redis_settings(start: Callable[..., Server]) -> None:
    """Settings of the caller reach the server and win over the harness's own; data then survives a kill."""
    server = start("redis", settings={"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "allkeys-lru"})
    where = address(server.url)
    assert call(where, "CONFIG", "GET", "maxmemory-policy") == ["maxmemory-policy", "allkeys-lru"]
    call(where, "SET", "kept", "1")
    server.kill()
    server.restart()
    assert call(where, "GET", "kept") == "1"


def test_cluster_redirects_to_loopback(start: Callable[..., Server]) -> None:
    """Every node of the cluster redirects to another node of the URL, at its loopback address."""
    server = start("redis-cluster")
    nodes = {address(f"redis://{host}") for host in urlsplit(server.url).netloc.split(",")}
    assert len(nodes) == 3
    moved = set()
    for node in nodes:
        for key in ("a", "b", "c", "d", "e", "f"):
            try:
                call(node, "SET", key, "1")
            except NotReady as redirect:
                moved.add(address(f"redis://{str(redirect).split()[2]}"))
    assert moved == nodes


def test_cluster_comes_back_after_a_kill(start: Callable[..., Server]) -> None:
    """A cluster that was killed as a whole serves again after restart, on the same ports."""
    server = start("redis-cluster")
    server.kill()
    server.restart()
    assert "cluster_state:ok" in str(call(address(server.url), "CLUSTER", "INFO"))


def test_sentinel_fails_over(start: Callable[..., Server]) -> None:
    """When the master is killed, the sentinels make the replica the master."""
    server = start("redis-sentinel")
    sentinel, new = address(server.endpoints["sentinel-1"]), address(server.endpoints["replica"])

    def moved() -> None:
        if call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster") != [new.host, str(new.port)]:
            raise NotReady("still the old master")

    server.members["master"].kill()
    until(moved)
    assert info(new, "replication")["role"] == "master"


def test_postgresql_durability_and_settings(start: Callable[..., Server]) -> None:
    """PostgreSQL keeps its durability defaults, has room for many connections and takes settings."""
    from idemstore.testing.servers.pgwire import ask

    server = start("postgresql", settings={"work_mem": "9MB"})
    shown = ask(address(server.url), "idemstore", "idemstore", "SHOW fsync", "SHOW max_connections", "SHOW work_mem")
    assert shown == ["on", "300", "9MB"]


def test_postgresql_user_with_password(start: Callable[..., Server]) -> None:
    """The second user of PostgreSQL does not get in without a password."""
    from idemstore.testing.servers.pgwire import ask

    server = start("postgresql")
    assert urlsplit(server.endpoints["auth"]).password == "s3cret"
    with pytest.raises(NotReady, match="password"):
        ask(address(server.endpoints["auth"]), "guarded", "idemstore", "SELECT 1")


def test_postgresql_keeps_commits_after_a_kill(start: Callable[..., Server]) -> None:
    """A kill ends all backends, too, and what was committed before it is there after the restart."""
    from idemstore.testing.servers.pgwire import ask

    server = start("postgresql")
    where = address(server.url)
    ask(where, "idemstore", "idemstore", "CREATE TABLE kept (a int)", "INSERT INTO kept VALUES (42)")
    server.kill()
    server.restart()
    assert ask(where, "idemstore", "idemstore", "SELECT a FROM kept") == ["42"]


def test_emulation_is_labelled(start: Callable[..., Server]) -> None:
    """An emulated MongoDB says so in its flag and in its version."""
    server = start("mongodb")
    assert server.emulation == ("emulated" in server.version)


def test_unknown_name() -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(ValueError, match=r"unknown server 'oracle'; known: redis, "):
        servers.start("oracle")


def test_settings_where_there_are_none() -> None:
    """A server that takes no settings says so before it starts anything."""
    with pytest.raises(ValueError, match="dynamodb takes no settings"):
        servers.start("dynamodb", settings={"port": "1"})


def test_failed_start_shows_the_log(start: Callable[..., Server]) -> None:
    """A server that does not start raises with the end of its own log, and leaves no process."""
    if start("redis").origin == "docker":
        pytest.skip("the wording of a container's failure is Docker's")
    with pytest.raises(ServerFailed, match=r"^redis: main: (?s:.*)bananas"):
        servers.start("redis", settings={"maxmemory-policy": "bananas"})


def test_unavailable_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a program is missing, the error names the command that installs it."""
    monkeypatch.setattr("idemstore.testing.servers.docker.answers", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerUnavailable, match="apt-get install redis-server"):
        servers.start("redis")


def test_required_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """IDEMSTORE_REQUIRE takes commas and blanks; an unknown name is an error."""
    monkeypatch.setenv("IDEMSTORE_REQUIRE", "redis, valkey  mongodb")
    assert required() == {"redis", "valkey", "mongodb"}
    monkeypatch.setenv("IDEMSTORE_REQUIRE", "redis,postgers")
    with pytest.raises(ValueError, match="IDEMSTORE_REQUIRE names unknown servers postgers"):
        required()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_killed_run(start: Callable[..., Server], signum: signal.Signals) -> None:
    """However a run ends, its servers and their files go with it."""
    if start("redis").origin == "docker":
        pytest.skip("with Docker it is the reaper's business")
    code = """
        import time
        from idemstore.testing.servers import start
        server = start("redis")
        print(*[member.pid for member in server.members.values()], server.members["main"].spec.directory, flush=True)
        time.sleep(60)
    """
    with python(code) as run:
        assert run.stdout is not None
        *numbers, directory = run.stdout.readline().split()
        assert all(alive(int(number)) for number in numbers)
        run.send_signal(signum)
        run.communicate()

    def gone() -> None:
        if any(alive(int(number)) for number in numbers) or Path(directory).exists():
            raise NotReady("still there")

    until(gone, 10)


def test_forked_child_leaves_the_servers_alone(start: Callable[..., Server]) -> None:
    """A forked child that exits normally does not stop its parent's servers."""
    if start("redis").origin == "docker":
        pytest.skip("with Docker there is no process of ours")
    code = """
        import os, sys
        from idemstore.testing.servers import start
        server = start("redis")
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        print(server.members["main"].running())
    """
    with python(code) as run:
        assert run.communicate()[0].strip() == "True"


def test_list_command() -> None:
    """`list` prints a line for every server."""
    command = [sys.executable, "-m", "idemstore.testing.servers", "list"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in table.splitlines()] == ["SERVER", *servers.NAMES]


def test_run_command_stops_at_interrupt(start: Callable[..., Server]) -> None:
    """`run` prints URLs that work and stops the servers when interrupted."""
    start("redis").stop()
    command = [sys.executable, "-m", "idemstore.testing.servers", "run", "redis"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        lines = list(iter(run.stdout.readline, "Ctrl-C stops them.\n"))
        where = address(lines[0].split()[1])
        assert accepts(where)
        run.send_signal(signal.SIGINT)
        try:
            run.communicate(timeout=60)
        finally:
            run.terminate()  # which does nothing, but where the interrupt did nothing either
    assert run.returncode == 0
    assert not accepts(where)


TEST_FILE = """
    def test_it(server_pool):
        assert server_pool.get("{name}").url == server_pool.get("{name}").url
"""


def pytest_run(directory: Path, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin on one file, in a process of its own."""
    (directory / "test_inner.py").write_text(textwrap.dedent(code))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("IDEMSTORE_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "idemstore.testing.pytest_plugin", "-rs", "-q", *options]
    environment = {**inherited, "PYTHONPATH": path, "COLUMNS": "200", **variables}
    return subprocess.run(
        [*command, "--rootdir", str(directory), str(directory)],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def without_programs(directory: Path) -> dict[str, str]:
    """Variables with which no program is found and Docker is not asked."""
    return {"PATH": str(directory), "IDEMSTORE_SERVERS": "process"}


def test_pool_reports_what_it_ran(start: Callable[..., Server], tmp_path: Path) -> None:
    """The summary names the server, its version and its origin."""
    server = start("redis")
    run = pytest_run(tmp_path, TEST_FILE.format(name="redis"), IDEMSTORE_REQUIRE="redis")
    assert run.returncode == 0, run.stdout
    assert f"redis: {server.version} ({server.origin})" in run.stdout


def test_pool_skips_what_is_missing(tmp_path: Path) -> None:
    """A server that cannot be had skips the test, and the summary says why."""
    run = pytest_run(tmp_path, TEST_FILE.format(name="redis"), **without_programs(tmp_path))
    assert run.returncode == 0, run.stdout
    assert "1 skipped" in run.stdout
    assert "redis: skipped: no redis-server on PATH" in run.stdout


def test_required_server_fails_instead(tmp_path: Path) -> None:
    """A required server that cannot be had fails the test."""
    variables = {**without_programs(tmp_path), "IDEMSTORE_REQUIRE": "redis"}
    run = pytest_run(tmp_path, TEST_FILE.format(name="redis"), **variables)
    assert run.returncode == 1
    assert "1 failed" in run.stdout
    assert "redis: REQUIRED BUT MISSING" in run.stdout


def test_required_server_fails_the_run_unasked(tmp_path: Path) -> None:
    """A run in which no test asked for a required, missing server fails, too."""
    variables = {**without_programs(tmp_path), "IDEMSTORE_REQUIRE": "redis"}
    run = pytest_run(tmp_path, "def test_nothing(): pass", **variables)
    assert run.returncode == 1
    assert "1 passed" in run.stdout
    assert "redis: REQUIRED BUT MISSING" in run.stdout


def test_unknown_required_server_ends_the_run(tmp_path: Path) -> None:
    """A misspelt name in IDEMSTORE_REQUIRE is a usage error."""
    run = pytest_run(tmp_path, "def test_nothing(): pass", IDEMSTORE_REQUIRE="rediss")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "unknown servers rediss" in run.stderr


def test_failed_server_is_no_skip(start: Callable[..., Server], tmp_path: Path) -> None:
    """A server that is installed but does not start fails the test even where it is not required."""
    start("redis").stop()
    (tmp_path / "redis-server").write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    (tmp_path / "redis-server").chmod(0o755)
    run = pytest_run(tmp_path, TEST_FILE.format(name="redis"), **without_programs(tmp_path))
    assert run.returncode == 1
    assert "out of luck" in run.stdout
    assert "redis: FAILED" in run.stdout


def test_members_keep_the_protocol(start: Callable[..., Server]) -> None:
    """A member can be used by itself: paused, resumed, killed, restarted, and its log read."""
    server = start("redis")
    member: Member = server.members["main"]
    member.pause()
    member.resume()
    member.kill()
    assert not member.running()
    member.restart()
    assert member.running()
    assert "main" in server.log()


def test_stop_is_quick(start: Callable[..., Server]) -> None:
    """Stopping does not wait for a grace period to pass."""
    server = start("redis")
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 5
