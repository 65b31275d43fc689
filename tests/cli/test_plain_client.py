"""The plain client: urls, frames over any split, questions among deliveries, bad ends."""

import json
import os
import socket
import sys

import pytest

from msg.plain_client import PlainClient, Refused, Unavailable, encode, parse_url


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with PlainClient(ours) as client, theirs:
        yield client, theirs


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("msg://example.org:1", ("example.org", 1)),
        ("msg://example.org", ("example.org", 8888)),
        ("example.org:1/", ("example.org", 1)),
        ("localhost", ("localhost", 8888)),
        ("msg://[::1]:9", ("::1", 9)),
    ],
)
def test_urls(url, address):
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["", "http://x", "msg://x:port", "msg://x/y", "msg://x:99999"])
def test_what_is_no_url(url):
    with pytest.raises(ValueError, match="expected msg://host:port"):
        parse_url(url)


def test_frames_over_any_split(pair):
    client, theirs = pair
    theirs.sendall(b'{"n":1}\n{"n"')
    assert client.receive() == {"n": 1}
    with pytest.raises(TimeoutError):
        client.receive(timeout=0)
    theirs.sendall(b":2}\n" + b'{"n":3}\n')
    assert client.receive(5) == {"n": 2}
    assert client.has_frame()
    assert client.receive(0) == {"n": 3}
    assert not client.has_frame()


def test_what_comes_before_an_answer_is_kept_in_order(pair):
    client, theirs = pair
    theirs.sendall(b'{"type":"message","n":1}\n{"type":"message","n":2}\n')
    theirs.sendall(b'{"type":"pong","id":"ask-1"}\n{"type":"message","n":3}\n')
    assert client.ask({"action": "ping"})["type"] == "pong"
    assert json.loads(theirs.recv(1000)) == {"action": "ping", "id": "ask-1"}
    assert [client.receive()["n"] for _ in range(3)] == [1, 2, 3]
    theirs.close()
    assert list(client.frames()) == []


def test_a_refusal_is_an_exception_with_its_code(pair):
    client, theirs = pair
    theirs.sendall(
        b'{"type":"error","id":"ask-1","code":"bad_name","error":"No.","retry":"never"}\n'
    )
    with pytest.raises(Refused, match=r"No\. \(bad_name\)") as refused:
        client.ask({"action": "get"})
    assert (refused.value.code, refused.value.retry) == ("bad_name", "never")


def test_an_error_that_closes_ends_a_question_without_its_id(pair):
    client, theirs = pair
    theirs.sendall(b'{"type":"error","code":"too_many","error":"Full.","closes":true}\n')
    with pytest.raises(Refused, match="Full"):
        client.ask({"action": "ping"})


def test_no_answer_is_unavailable(pair):
    client, theirs = pair
    with pytest.raises(Unavailable, match="no answer to ping within 0 s"):
        client.ask({"action": "ping"}, timeout=0)
    theirs.close()
    with pytest.raises(Unavailable, match=r"closed the connection|connection lost"):
        client.ask({"action": "ping"})


@pytest.mark.parametrize("line", [b"SSH-2.0\n", b"[1]\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_another_protocol(pair, line):
    client, theirs = pair
    theirs.sendall(line)
    with pytest.raises(Unavailable, match="not a broker"):
        client.receive()


def test_encode_is_compact_and_strict():
    assert encode({"a": "ä"}) == '{"a":"ä"}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        encode({"a": float("nan")})


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such numbers there")
def test_it_works_among_thousands_of_open_files(pair):
    import resource

    client, server = pair
    number = 1500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard <= number:
        pytest.skip(f"no more than {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number + 1), hard))
    try:
        os.dup2(client._socket.fileno(), number)
        client._socket.close()
        client._socket = socket.socket(fileno=number)
        server.sendall(b'{"type":"pong"}\n')
        assert client.receive(30) == {"type": "pong"}
        with pytest.raises(TimeoutError):
            client.receive(0)
    finally:
        client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
