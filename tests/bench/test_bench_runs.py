"""Whole runs of ``idemstore bench``: what they print, write and find."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from benchhelp import Bench, Report, Results

import idemstore
from idemstore.testing.pytest_plugin import ServerPool

SCENARIOS = ["unique", "replay", "hot", "mixed", "wait", "big"]
DOCS = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"
FIGURES = ("throughput", "floor_throughput", "ratio", "p50_ms", "p95_ms", "p99_ms", "cpu_us_per_op")


def test_the_usual_run_has_a_row_for_each_cell(usual: Results):
    """Memory and SQLite, both modes, all scenarios, each number of callers, each with all figures and no error."""
    assert usual.done.returncode == 0, usual.done
    rows = usual.json["rows"]
    cells = [(row["target"], row["mode"], row["scenario"], row["callers"]) for row in rows]
    assert sorted(cells) == sorted(
        (target, mode, scenario, 4)
        for target in ("memory", "sqlite")
        for mode in ("sync", "async")
        for scenario in SCENARIOS
    )
    for row in rows:
        assert all(row[name] > 0 for name in FIGURES), row
        assert row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert (row["errors"], row["floor_errors"], row["exactly_one_claimed"]) == ({}, {}, True), row


def test_store_and_floor_take_turns_and_every_round_is_kept(usual: Results):
    """Who is first changes; the row has the median of its rounds."""
    for row in usual.json["rows"]:
        assert [one["first"] for one in row["rounds"]] == ["store", "floor"]
        ratios = [one["ratio"] for one in row["rounds"]]
        assert row["ratio"] == pytest.approx(sum(ratios) / 2)
        for one in row["rounds"]:
            for side in (one["store"], one["floor"]):
                assert side["throughput"] == pytest.approx(side["operations"] / side["seconds"])
            assert one["ratio"] == pytest.approx(one["store"]["throughput"] / one["floor"]["throughput"])


def test_round_trips_are_counted(usual: Results):
    """Two for a new key, one for a replay, three for a big result."""
    for row in usual.json["rows"]:
        expected = {"unique": 2, "replay": 1, "big": 3}.get(row["scenario"])
        if expected is not None and (row["target"], row["mode"]) == ("sqlite", "async"):
            assert 0 < row["round_trips_per_op"] < expected + 0.01, row  # concurrent calls may share one
        elif expected is not None:
            assert row["round_trips_per_op"] == pytest.approx(expected), row
        if row["scenario"] in ("hot", "mixed"):  # a winner needs two, the others one, or a part of one of a batch
            least = 0 if row["mode"] == "async" else 1
            assert least < row["round_trips_per_op"] <= 2, row


def test_the_printed_table_is_plain_without_a_terminal(usual: Results):
    """No control characters, lines with times meanwhile, a table with whole columns, and the verdict."""
    printed = usual.done.stdout
    assert "\x1b" not in printed
    assert re.search(
        r"^ +\d+\.\d s  48 of 48: sqlite async, big results, 4 callers, round 2: [\d,]+ op/s$", printed, re.M
    )
    assert re.search(r"^unique keys +4 +[\d,]+ +\d+\.\d\d +(?:[\d.,]+ +){3}2\.00 +[\d,]+ +0  ok *$", printed, re.M)
    assert "…" not in printed
    assert "Exactly one Claimed per key, in every sample." in printed


def test_the_json_says_where_and_how(usual: Results):
    """Versions, cores, load, and the plan."""
    found = usual.json
    assert found["format"] == "idemstore-bench/1"
    machine = found["machine"]
    assert machine["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (machine["cores"], machine["idemstore"]) == (os.cpu_count(), idemstore.__version__)
    assert len(machine["load_start"]) == len(machine["load_end"]) == 3
    assert found["plan"]["concurrency"] == [4]
    assert found["plan"]["seconds"] == 0.02
    assert [target["name"] for target in found["targets"]] == ["memory", "sqlite"]
    assert found["targets"][1]["server"] == f"SQLite {sqlite3.sqlite_version}"


def names(value: object, found: set[str]) -> set[str]:
    """The names of all members, at any depth, but of those that are data."""
    if isinstance(value, dict):
        for name, member in value.items():
            found.add(name)
            if name not in ("errors", "floor_errors", "clients"):
                names(member, found)
    elif isinstance(value, list):
        for member in value:
            names(member, found)
    return found


def test_every_member_of_the_json_is_documented(usual: Results):
    """The page names each, as code."""
    documented = set(re.findall(r"`(\w+)`", DOCS.read_text()))
    assert names(usual.json, set()) - documented == set()


def test_the_page_stands_by_itself(usual: Results):
    """Nothing is fetched: no script, no link, no address but those of SVG's name spaces; plots for every scenario."""
    html = usual.html
    spaces = re.sub(r'xmlns(:\w+)?="http://www\.w3\.org/[^"]+"', "", html)
    assert "http:" not in spaces
    assert "https:" not in spaces
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\((?!#)", html)
    assert set(re.findall(r'href="([^#][^"]*)"', html)) == set()
    assert "<metadata" not in html
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for scenario in SCENARIOS:
        section = html.partition(f'<section id="{scenario}">')[2].partition("</section>")[0]
        assert section.count("<svg") == 3, scenario
        assert section.count("<tr") == 1 + 4, scenario
    assert html.count(">operations per second (log)</text>") == len(SCENARIOS)


def test_on_a_real_server_through_a_proxy_that_adds_latency(server_pool: ServerPool, report: Report):
    """Store and floor are both that much slower, and the wire saw as many round trips as the driver counted."""
    url = server_pool.get("redis").url
    shown = report(
        url, "--added-latency", "10", "--scenario", "unique", "--concurrency", "4", "--rounds", "5",
        "--seconds", "0.15", "--mode", "async",
    )  # fmt: skip
    assert shown.done.returncode == 0, shown.done
    for row in shown.json["rows"]:
        assert row["p50_ms"] >= 20
        assert row["floor_p50_ms"] >= 20
        assert row["wire_round_trips_per_op"] == pytest.approx(row["round_trips_per_op"])
        assert 0.5 < row["ratio"] < 1.6
    assert shown.json["plan"]["added_latency_ms"] == 10


def test_a_store_that_is_somebodys_is_left_as_it_was(server_pool: ServerPool, bench: Bench):
    """On Redis, in both modes, every scenario: the records of the run are gone, those of others are there."""
    redis = pytest.importorskip("redis")
    server = server_pool.get("redis")
    with redis.Redis.from_url(server.url) as client, idemstore.open(server.url) as store:
        client.delete(*(client.keys("*bench-*") or ["none"]))
        store.claim("somebody-else's")
        before = set(client.keys("*"))
        done = bench(server.url, "--seconds", "0.02", "--rounds", "1", "--concurrency", "3")
        assert done.returncode == 0, done
        assert "not deleted" not in done.stdout
        assert set(client.keys("*")) == before
        store.forget("somebody-else's")


def test_a_database_that_never_saw_a_store(server_pool: ServerPool, bench: Bench):
    """The schema is made, as the page says, before anything else is asked; both modes."""
    psycopg = pytest.importorskip("psycopg")
    url = server_pool.get("postgresql").url
    separator = "&" if "?" in url else "?"
    schema = f"bench_{os.getpid()}"
    try:
        for number, scheme in enumerate(("postgresql://", "postgresql+asyncpg://")):
            fresh = f"{url.replace('postgresql://', scheme)}{separator}schema={schema}_{number}"
            done = bench(fresh, "--scenario", "unique", "--operations", "4", "--rounds", "1", "--concurrency", "2")
            assert done.returncode == 0, done
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            for number in range(2):
                connection.execute(f"DROP SCHEMA IF EXISTS {schema}_{number} CASCADE")


def test_calls_that_share_a_round_trip_are_seen_to(server_pool: ServerPool, report: Report):
    """The counting driver stands behind what coalesces: less than one for an operation of two calls; 2 without."""
    url = server_pool.get("redis").url
    separator = "&" if "?" in url else "?"
    shown = report(
        f"{url}{separator}coalesce=1", f"{url}{separator}coalesce=0", "--scenario", "unique", "--concurrency", "48",
        "--rounds", "1", "--seconds", "0.1", "--mode", "async",
    )  # fmt: skip
    assert shown.done.returncode == 0, shown.done
    together, alone = shown.json["rows"]
    assert together["target"].endswith("coalesce=1")
    assert together["round_trips_per_op"] < 1
    assert alone["round_trips_per_op"] == pytest.approx(2)


def test_processes_share_a_file(tmp_path: Path, report: Report):
    """Three callers in two processes; the file beside the store's is gone, the records, too."""
    path = tmp_path / "shared.db"
    shown = report(
        f"sqlite:///{path}", "--processes", "2", "--scenario", "hot,mixed,wait", "--concurrency", "3",
        "--rounds", "1", "--seconds", "0.1", "--mode", "sync",
    )  # fmt: skip
    assert shown.done.returncode == 0, shown.done
    assert [row["processes"] for row in shown.json["rows"]] == [2, 2, 2]
    assert not list(tmp_path.glob("*floor*"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM idemstore WHERE state IS NOT NULL").fetchone()[0] == 0


def test_operations_instead_of_seconds(report: Report):
    """So many, no more, in each sample."""
    shown = report(
        "memory://",
        "--operations",
        "70",
        "--rounds",
        "1",
        "--concurrency",
        "4",
        "--scenario",
        "unique,hot",
        "--mode",
        "sync",
    )
    assert shown.done.returncode == 0
    assert [row["rounds"][0]["store"]["operations"] for row in shown.json["rows"]] == [70] * 2
    assert shown.json["plan"]["seconds"] is None


@pytest.mark.parametrize(("way", "scenario"), [("forgetful", "unique,replay,wait"), ("lapse", "mixed")])
def test_a_store_that_claims_twice_fails_the_run(report: Report, way: str, scenario: str):
    """Exit code 1, each row says so, and the keys are named."""
    shown = report(
        f"lying://{way}", "--yes", "--scenario", scenario, "--concurrency", "3", "--rounds", "1", "--seconds", "0.05",
        plugin="lying_stores",
    )  # fmt: skip
    assert shown.done.returncode == 1
    assert re.search(r"^VIOLATED: bench-\w+-\d+-\S+: \d+ Claimed \(lying://", shown.done.stdout, re.M)
    assert "Exactly one Claimed per key: NO." in shown.done.stdout
    assert "Exactly one Claimed per key: NO." in shown.html
    assert shown.json["violated"] is True
    assert all(not row["exactly_one_claimed"] and row["violations"] for row in shown.json["rows"])


def test_errors_are_counted_and_are_no_violations(report: Report):
    """Calls that get no answer may or may not have been applied; a family without a floor has no ratio."""
    shown = report(
        "lying://slow", "--yes", "--scenario", "unique,hot", "--concurrency", "2", "--rounds", "1", "--seconds", "0.05",
        "--mode", "sync", plugin="lying_stores",
    )  # fmt: skip
    assert shown.done.returncode == 0, shown.done.stdout
    for row in shown.json["rows"]:
        assert row["errors"]["StoreTimeout"] > 0
        assert (row["ratio"], row["floor_throughput"], row["exactly_one_claimed"]) == (None, None, True)
    assert "errors: " in shown.done.stdout
    assert "no floor is known for this family" in shown.done.stdout


def test_ctrl_c_ends_it_cleanly(environment: dict[str, str], tmp_path: Path):
    """What there is so far is printed and written, as partial; no worker and no file stays."""
    directory = tmp_path / "partial"
    command = [
        "--seconds",
        "0.05",
        "--rounds",
        "99",
        "--scenario",
        "unique",
        "--concurrency",
        "2",
        "--report",
        str(directory),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "idemstore", "bench", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " of 396: " in line:
                break
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest, errors = process.communicate(timeout=30)
        took = time.monotonic() - began
    assert process.returncode == 130, errors
    assert took < 10
    assert "Interrupted: these results are partial." in rest
    assert '"interrupted": true' in (directory / "results.json").read_text()
    assert not list(tmp_path.glob("idemstore-bench-*"))
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    assert not re.search(rf"^ *{process.pid} ", listed, re.M)
