"""Fetching images: what is refused, and that the connection goes where the check looked."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import httpx
import pytest

from llama_index_rnx.network import FetchError, fetch
from llama_index_rnx.network import download as module
from llama_index_rnx.network.download import is_public, special

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "0.0.0.0", "0.1.2.3", "100.64.0.1", "100.127.255.255", "169.254.1.1", "192.0.2.1",
    "198.51.100.1", "203.0.113.1", "192.88.99.1", "192.31.196.1", "192.52.193.1",
    "192.175.48.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1",
    "255.255.255.255",
]  # fmt: skip
METADATA = [
    "169.254.169.254",
    "192.0.0.192",
    "168.63.129.16",
    "100.100.100.200",
    "161.26.0.10",
    "166.9.1.1",
    "fd00:ec2::254",
]
PRIVATE_6 = [
    "::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "feff::1", "fc00::1",
    "fd00::1", "ff02::1", "ff0e::1", "::10.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe", "::ffff:0:10.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::7f00:1",
    "64:ff9b::808:808", "64:ff9b:1::1", "64:ff9b:1:ffff::a00:1", "100::1", "100:0:0:1::1",
    "5f00::1", "4000::1", "8000::1", "1fff::1", "2001::1", "2001:0:7f00:1::", "2001:2::1",
    "2001:10::1", "2001:20::1", "2001:30::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
    "2620:4f:8000::1", "3ffe::1", "3fff::1", "3fff:fff::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "93.184.216.34", "100.63.255.255",
    "100.128.0.1", "168.63.129.15", "168.63.129.17", "172.15.255.255", "172.32.0.1",
    "192.0.1.1", "192.167.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.255",
    "::ffff:8.8.8.8", "2000::1", "2001:200::1", "2001:4860:4860::8888", "2003::1",
    "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450::1", "3fff:1000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", [*PRIVATE, *METADATA, *PRIVATE_6])
def test_private_addresses(address: str) -> None:
    assert not is_public(address)
    assert special(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_of_ipv6_nothing_is_public_but_what_is_given_out() -> None:
    for block in range(2**8):
        address = str(ipaddress.IPv6Address(block << 120 | 0x1234))
        assert is_public(address) == (0x20 <= block <= 0x3F), address


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to; addresses stand for themselves."""
    known: dict[str, list[str]] = {}

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in known and not host.replace(".", "").isdigit():
            raise socket.gaierror("unknown")
        return [(None, None, None, "", (address, port)) for address in known.get(host, [host])]

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    return known


def answering(
    reply: Callable[[httpx.Request], httpx.Response],
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return reply(request)

    return httpx.MockTransport(handle), seen


def test_it_connects_to_the_address_that_was_checked(names: dict[str, list[str]]) -> None:
    names["images.example"] = ["93.184.216.34"]
    transport, seen = answering(lambda _: httpx.Response(200, content=b"pixels"))
    assert (
        fetch("https://user:secret@images.example/a.png?x=1#part", transport=transport) == b"pixels"
    )
    (request,) = seen
    assert str(request.url) == "https://93.184.216.34/a.png?x=1"
    assert request.headers["host"] == "images.example"
    assert "authorization" not in request.headers
    assert request.extensions["sni_hostname"] == "images.example"
    assert request.extensions["timeout"]["read"] == module.SECONDS


def test_one_private_address_among_several_is_enough_to_refuse(names: dict[str, list[str]]) -> None:
    names["two.example"] = ["93.184.216.34", "10.0.0.5"]
    with pytest.raises(FetchError, match=r"two\.example.*10\.0\.0\.5.*no public address"):
        fetch("http://two.example/")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://0.0.0.0:6333/"]
)
def test_a_private_address_is_refused(url: str, names: dict[str, list[str]]) -> None:
    with pytest.raises(FetchError, match=r"no public address \(.*\)"):
        fetch(url)


def test_a_redirect_inwards_is_refused(names: dict[str, list[str]]) -> None:
    names["out.example"] = ["93.184.216.34"]
    transport, seen = answering(
        lambda _: httpx.Response(302, headers={"location": "http://127.0.0.1:6333/collections"})
    )
    with pytest.raises(FetchError, match="no public address"):
        fetch("http://out.example/a.png", transport=transport)
    assert len(seen) == 1


def test_redirects_outwards_are_followed_three_times(names: dict[str, list[str]]) -> None:
    names["out.example"] = ["93.184.216.34"]
    stops = iter(["/b", "/c", "/d", None])

    def reply(_: httpx.Request) -> httpx.Response:
        stop = next(stops)
        return (
            httpx.Response(302, headers={"location": stop})
            if stop
            else httpx.Response(200, content=b"at last")
        )

    transport, seen = answering(reply)
    assert fetch("http://out.example/a", transport=transport) == b"at last"
    assert [request.url.path for request in seen] == ["/a", "/b", "/c", "/d"]
    transport, _ = answering(lambda _: httpx.Response(302, headers={"location": "/again"}))
    with pytest.raises(FetchError, match="more than 3 redirects"):
        fetch("http://out.example/a", transport=transport)


def test_too_much_and_too_slow(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["out.example"] = ["93.184.216.34"]
    monkeypatch.setattr(module, "MAX_BYTES", 2**20)
    transport, _ = answering(lambda _: httpx.Response(200, content=bytes(2**20 + 1)))
    with pytest.raises(FetchError, match="more than 1 MiB"):
        fetch("http://out.example/", transport=transport)
    monkeypatch.setattr(module, "SECONDS", -1.0)
    with pytest.raises(FetchError, match="not there within"):
        module._read_body(
            httpx.Response(200, content=b"x", request=httpx.Request("GET", "http://out.example/"))
        )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://out.example/",
        "file:///etc/passwd",
        "http:///nowhere",
        "http://[half/",
        "http://x:99999/",
    ],
)
def test_what_is_no_web_address(url: str, names: dict[str, list[str]]) -> None:
    with pytest.raises(FetchError):
        fetch(url)


def test_an_unknown_host_and_a_refusal(names: dict[str, list[str]]) -> None:
    with pytest.raises(FetchError, match=r"nowhere\.example.*not known"):
        fetch("http://nowhere.example/")
    names["out.example"] = ["93.184.216.34"]
    transport, _ = answering(lambda _: httpx.Response(404))
    with pytest.raises(FetchError, match="404"):
        fetch("http://out.example/", transport=transport)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
    ],
)
def test_a_private_address_in_another_spelling(host: str) -> None:
    """As the system itself reads them: decimal, hexadecimal, octal, short, and IPv4 inside IPv6."""
    with pytest.raises(FetchError, match=r"no public address|not known"):
        fetch(f"http://{host}/")


def test_a_name_that_resolves_differently_a_moment_later(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name is asked once, and the connection goes to that answer."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    monkeypatch.setattr(
        module.socket,
        "getaddrinfo",
        lambda host, port, **_: [(None, None, None, "", (a, port)) for a in next(answers)],
    )
    transport, seen = answering(lambda _: httpx.Response(200, content=b"pixels"))
    assert fetch("http://rebinding.example/", transport=transport) == b"pixels"
    assert [request.url.host for request in seen] == ["93.184.216.34"]


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "http://2130706433/",
        "gopher://127.0.0.1/",
        "//127.0.0.1/a",
        "http://[::1]/",
    ],
)
def test_where_a_redirect_may_not_lead(to: str, names: dict[str, list[str]]) -> None:
    names |= {"out.example": ["93.184.216.34"], "2130706433": ["127.0.0.1"], "::1": ["::1"]}
    transport, seen = answering(lambda _: httpx.Response(302, headers={"location": to}))
    with pytest.raises(FetchError):
        fetch("http://out.example/a.png", transport=transport)
    assert len(seen) == 1
