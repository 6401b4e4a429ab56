"""Which endpoints are taken, and that nothing but the named host is ever contacted."""

from pathlib import Path

import pytest

from lingshu_testing.chat_endpoint import Refuse, Say, chat_endpoint
from lingshu_tools.chat import Endpoint
from lingshu_tools.chat.replies import Reply
from lingshu_tools.errors import EndpointError, InputError

QUESTION = [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "http"),
        ("127.0.0.1:8080", "http"),
        ("ftp://x/v1", "http"),
        ("file:///etc/passwd", "http"),
        ("http://me:secret77@host/v1", "password"),
        ("http://secret77@host/v1", "password"),
        ("https://host/v1?key=secret77", "leave out"),
        ("https://host/v1#x", "leave out"),
        ("http://[::1", "URL"),
        ("http://a\x00b/", "URL"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused_without_its_secrets(url: str, said: str):
    with pytest.raises(InputError, match=said) as raised:
        Endpoint.parse(url, "m")
    assert "secret77" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://127.0.0.1:1", "/"),
        ("http://127.0.0.1:1/v1/", "/v1"),
        ("https://a.b/api/v1/chat/completions", "/api/v1"),
        ("https://a.b/x%2Fy/v1", "/x/y/v1"),
    ],
)
def test_an_endpoint_is_taken_with_and_without_what_follows_the_version(url: str, path: str):
    assert Endpoint.parse(url, "m").url.path == path


@pytest.mark.parametrize("host", ["example.org", "10.0.0.5", "[::2]", "127.0.0.1.example.org"])
def test_a_key_is_not_sent_where_others_can_read_it(host: str):
    with pytest.raises(InputError, match="https"):
        Endpoint.parse(f"http://{host}/v1", "m", "key-12345")
    assert Endpoint.parse(f"http://{host}/v1", "m").key is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_a_key_is_sent_on_this_machine(host: str):
    endpoint = Endpoint.parse(f"http://{host}:1/v1", "m", "key-12345\n")
    assert endpoint.key == "key-12345"
    assert "key-12345" not in repr(endpoint)


@pytest.mark.parametrize("key", ["a\nb: c", "é" * 8, "x\x00y"])
def test_a_key_that_would_change_the_request_is_refused(key: str):
    with pytest.raises(InputError, match="characters"):
        Endpoint.parse("https://a.b/v1", "m", key)


def test_a_redirect_is_not_followed():
    with chat_endpoint(Say("No.")) as other:
        location = {"Location": f"{other.url}/chat/completions"}
        for status in (301, 302, 303, 307, 308):
            with (
                chat_endpoint(Refuse(status, location)) as named,
                pytest.raises(EndpointError, match="redirects"),
            ):
                list(Endpoint.parse(named.url, "m", "key-12345").stream(QUESTION, []))
        assert other.requests == []


def test_proxies_and_credentials_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password of-netrc\n", "utf-8")
    with chat_endpoint(Say("Proxy.")) as proxy, chat_endpoint(Say("Here.")) as named:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        *_, reply = Endpoint.parse(named.url, "m").stream(QUESTION, [])
        assert isinstance(reply, Reply)
        assert reply.text == "Here."
        assert proxy.requests == []
        assert "authorization" not in named.headers[0]
        assert named.requests[0]["path"] == "/v1/chat/completions"


def test_an_endpoint_that_nobody_serves_is_named():
    with chat_endpoint(Say("")) as gone:
        url = gone.url
    with pytest.raises(EndpointError, match="cannot be reached"):
        list(Endpoint.parse(url, "m", timeout_s=5).stream(QUESTION, []))


def test_half_of_a_surrogate_pair_does_not_end_the_chat():
    with chat_endpoint(Say("Fine.")) as fake:
        *_, reply = Endpoint.parse(fake.url, "m").stream(
            [{"role": "user", "content": "a\ud800b"}], []
        )
        assert isinstance(reply, Reply)
        assert reply.text == "Fine."
