"""The proxy against a plain TCP server: it forwards, counts, loses, stalls, cuts, and leaves nothing behind."""

import socket
import socketserver
import threading
import time

import pytest

from idemstore.testing.proxy import MAX_LINKS, Proxy


class Shout(socketserver.StreamRequestHandler):
    """Answers every line in capitals, and notes it."""

    def handle(self):
        for line in self.rfile:
            self.server.heard.append(line)
            self.wfile.write(line.upper())


class Server(socketserver.ThreadingTCPServer):
    """A line server on a free port."""

    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def server():
    """Running for one test."""
    with Server(("127.0.0.1", 0), Shout) as made:
        made.heard = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    """In front of it."""
    with Proxy(*server.server_address) as made:
        yield made


class Client:
    """A connection through the proxy."""

    def __init__(self, proxy):
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        self.lines = self.socket.makefile("rb")

    def say(self, line):
        self.socket.sendall(line + b"\n")

    def ask(self, line):
        self.say(line)
        return self.lines.readline()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.lines.close()
        self.socket.close()


def lost(client):
    """Whether the connection is gone: its end or a reset."""
    try:
        return client.lines.readline() == b""
    except ConnectionError:
        return True


def test_forwards_and_counts(proxy):
    """Bytes come through both ways; a round trip is counted per question, however large."""
    with Client(proxy) as one, Client(proxy) as two:
        assert one.ask(b"hello") == b"HELLO\n"
        assert two.ask(b"x" * 300_000) == b"X" * 300_000 + b"\n"
        assert one.ask(b"again") == b"AGAIN\n"
        assert proxy.round_trips == 3
        assert proxy.connections == 2


def test_pipelined_questions_are_one_trip(proxy):
    """What is sent together is answered together."""
    with Client(proxy) as client:
        client.say(b"a\nb\nc")
        assert [client.lines.readline() for _ in range(3)] == [b"A\n", b"B\n", b"C\n"]
        assert proxy.round_trips <= 3


def test_drops_the_reply_of_an_applied_request(proxy, server):
    """The server heard it, the client lost its connection; the next request is well."""
    with Client(proxy) as client:
        client.ask(b"warm")
        dropped = proxy.drop_reply()
        client.say(b"apply me")
        assert lost(client)
        assert dropped.wait(5)
    assert server.heard == [b"warm\n", b"apply me\n"]
    with Client(proxy) as client:
        assert client.ask(b"next") == b"NEXT\n"


def test_drops_only_what_matches(proxy):
    """Other requests, on the same or on another connection, are left alone."""
    dropped = proxy.drop_reply(b"victim")
    with Client(proxy) as one, Client(proxy) as two:
        assert one.ask(b"other") == b"OTHER\n"
        assert not dropped.is_set()
        two.say(b"the victim")
        assert lost(two)
        assert dropped.wait(5)
        assert one.ask(b"other") == b"OTHER\n"


def test_drops_one_reply_each(proxy):
    """Two orders, two losses, then no more."""
    orders = [proxy.drop_reply() for _ in range(2)]
    for order in orders:
        with Client(proxy) as client:
            client.say(b"x")
            assert lost(client)
            assert order.wait(5)
    with Client(proxy) as client:
        assert client.ask(b"x") == b"X\n"


def test_stalls_and_resumes(proxy, server):
    """Nothing comes through, then everything."""
    with Client(proxy) as client:
        client.ask(b"warm")
        proxy.stall()
        client.say(b"held")
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert server.heard == [b"warm\n"]
        client.socket.settimeout(5)
        proxy.resume()
        assert client.socket.recv(10) == b"HELD\n"


def test_cuts(proxy):
    """Every connection at once; new ones are taken, unless they are to be refused."""
    with Client(proxy) as one, Client(proxy) as two:
        one.ask(b"warm")
        two.ask(b"warm")
        proxy.cut()
        assert lost(one)
        assert lost(two)
        assert proxy.connections == 0
    with Client(proxy) as client:
        assert client.ask(b"again") == b"AGAIN\n"
    proxy.cut(refuse=True)
    with Client(proxy) as client:
        assert lost(client)
    proxy.accept()
    with Client(proxy) as client:
        assert client.ask(b"again") == b"AGAIN\n"


def test_latency_is_added_to_each_round_trip(proxy):
    """Once per round trip, in order, and for several connections side by side."""
    proxy.latency = 50.0
    with Client(proxy) as one, Client(proxy) as two:
        began = time.monotonic()
        one.say(b"a")
        two.say(b"b")
        assert one.lines.readline() == b"A\n"
        assert two.lines.readline() == b"B\n"
        assert one.ask(b"x" * 200_000) == b"X" * 200_000 + b"\n"
        assert 0.1 <= time.monotonic() - began < 3


def test_half_closed_client_is_let_go(proxy):
    """A client that leaves takes its counterpart along."""
    with Client(proxy) as client:
        client.ask(b"warm")
    with Client(proxy) as client:
        client.ask(b"warm")
        assert proxy.connections == 1


def test_server_that_is_not_there():
    """A proxy to nobody closes what it accepts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Proxy("127.0.0.1", port) as proxy, Client(proxy) as client:
        assert lost(client)


def test_leaves_nothing_behind(server):
    """Its thread and sockets end with it; closing twice is fine."""
    before = threading.active_count()
    proxy = Proxy(*server.server_address)
    client = Client(proxy)
    client.ask(b"x")
    proxy.close()
    proxy.close()
    assert lost(client)
    client.lines.close()
    client.socket.close()
    assert not proxy._thread.is_alive()
    assert threading.active_count() <= before + 1  # the line server's thread for that client may be ending
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def test_bounded():
    """It does not take connections without end."""
    assert MAX_LINKS <= 1024
