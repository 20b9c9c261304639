"""A Redis Cluster of three nodes, and a master with a replica watched by three sentinels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from idemstore.testing.servers import resp
from idemstore.testing.servers.keeper import remove
from idemstore.testing.servers.process import Process, assembling, free_address
from idemstore.testing.servers.redis import Launcher, Program
from idemstore.testing.servers.server import Server, ServerFailed, Settings
from idemstore.testing.servers.waiting import Address, NotReady, until

SERVICE = "mymaster"
_SLOTS = 16384
_NODES = 3


def _settle(name: str, check: Callable[[], None]) -> None:
    """Wait until the members agree with each other."""
    try:
        until(check)
    except TimeoutError as error:
        raise ServerFailed(name, str(error)) from error


def _owners(address: Address) -> set[tuple[resp.Reply, ...]]:
    """Return the addresses of the slots' owners as one node tells them."""
    ranges = resp.call(address, "CLUSTER", "SLOTS")
    owners = [entry[2] for entry in ranges if isinstance(entry, list)] if isinstance(ranges, list) else []
    return {tuple(owner[:2]) for owner in owners if isinstance(owner, list)}


def _serving(nodes: Sequence[Address]) -> None:
    """Raise unless every node serves and knows all nodes by their loopback addresses."""
    for node in nodes:
        if "cluster_state:ok" not in str(resp.call(node, "CLUSTER", "INFO")):
            raise NotReady(f"node {node} does not serve yet")
        if _owners(node) != set(nodes):
            raise NotReady(f"node {node} does not know all nodes yet")


def _join(nodes: Sequence[Address], buses: Sequence[Address]) -> None:
    """Give every node its slots and introduce it to the first."""
    for index, (node, bus) in enumerate(zip(nodes, buses, strict=True)):
        first, last = _SLOTS * index // _NODES, _SLOTS * (index + 1) // _NODES - 1
        resp.call(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        resp.call(node, "CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
        resp.call(nodes[0], "CLUSTER", "MEET", node.host, str(node.port), str(bus.port))


def _urls(addresses: Mapping[str, Address]) -> Mapping[str, str]:
    """Return the address of each member as a URL."""
    return MappingProxyType({name: f"redis://{address}" for name, address in addresses.items()})


def _node(launcher: Launcher, name: str, node: Address, bus: Address) -> Process:
    """Start one node of a cluster."""
    lines = (
        "cluster-enabled yes",
        f"cluster-port {bus.port}",
        f"cluster-config-file nodes-{node.port}.conf",
        f"cluster-announce-ip {node.host}",
        "cluster-node-timeout 5000",
    )
    return launcher.launch(name, node, lines)


def start_cluster(name: str, program: Program, settings: Settings) -> Server:
    """Start three masters that share the slots."""
    nodes = [free_address() for _ in range(_NODES)]
    buses = [free_address() for _ in range(_NODES)]
    settled = partial(_settle, name, partial(_serving, nodes))
    with assembling(name) as (directory, members):
        launcher = Launcher(program, directory, settings)
        named = {f"node-{number}": node for number, node in enumerate(nodes, 1)}
        for (member, node), bus in zip(named.items(), buses, strict=True):
            members[member] = _node(launcher, member, node, bus)
        _join(nodes, buses)
        settled()
        return Server(
            name=name,
            url=f"redis+cluster://{','.join(map(str, nodes))}",
            version=resp.version(nodes[0]),
            origin="process",
            members=MappingProxyType(members),
            endpoints=_urls(named),
            settled=settled,
            cleanup=partial(remove, directory),
        )


def _in_step(replica: Address) -> None:
    """Raise unless a replica has caught up with its master."""
    if resp.info(replica, "replication").get("master_link_status") != "up":
        raise NotReady(f"replica {replica} is not in step yet")


def _sentinel(launcher: Launcher, name: str, address: Address, master: Address) -> Process:
    """Start one sentinel; it keeps what it learns in its own configuration file."""
    lines = (
        f"sentinel monitor {SERVICE} {master.host} {master.port} 2",
        f"sentinel down-after-milliseconds {SERVICE} 1000",
        f"sentinel failover-timeout {SERVICE} 5000",
        f"sentinel parallel-syncs {SERVICE} 1",
    )
    return launcher.sentinel(name, address, lines)


def _watching(sentinels: Sequence[Address]) -> None:
    """Raise unless every sentinel sees a master, its replica and the other sentinels."""
    for sentinel in sentinels:
        seen = resp.table(resp.call(sentinel, "SENTINEL", "MASTER", SERVICE))
        if (seen["flags"], seen["num-slaves"], seen["num-other-sentinels"]) != ("master", "1", str(len(sentinels) - 1)):
            raise NotReady(f"sentinel {sentinel} does not see all others yet")


def start_sentinel(name: str, program: Program, settings: Settings) -> Server:
    """Start a master, a replica of it and three sentinels, of which two decide a failover."""
    master, replica, *sentinels = (free_address() for _ in range(5))
    settled = partial(_settle, name, partial(_watching, sentinels))
    quick = ("repl-diskless-sync-delay 0",)
    with assembling(name) as (directory, members):
        launcher = Launcher(program, directory, settings)
        members["master"] = launcher.launch("master", master, quick)
        members["replica"] = launcher.launch("replica", replica, (*quick, f"replicaof {master.host} {master.port}"))
        _settle(name, partial(_in_step, replica))
        watchers = {f"sentinel-{number}": sentinel for number, sentinel in enumerate(sentinels, 1)}
        for member, sentinel in watchers.items():
            members[member] = _sentinel(launcher, member, sentinel, master)
        settled()
        return Server(
            name=name,
            url=f"redis+sentinel://{','.join(map(str, sentinels))}/0?service={SERVICE}",
            version=resp.version(master),
            origin="process",
            members=MappingProxyType(members),
            endpoints=_urls({"master": master, "replica": replica, **watchers}),
            settled=settled,
            cleanup=partial(remove, directory),
        )
