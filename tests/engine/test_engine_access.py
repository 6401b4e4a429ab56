"""Who can be taken for the engine, who may ask it, and where it listens when the home cannot."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lingshu_model.engine.errors import StartError
from lingshu_model.engine.http import listening
from lingshu_model.engine.http.listening import local_listener
from lingshu_model.system import endpoints, peers
from lingshu_model.system.endpoints import Endpoint, read_endpoint, write_endpoint
from lingshu_model.system.places import EnginePlaces
from lingshu_model.system.private import UnsafePathError, open_private

OTHER_UID = 12345
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")
linux = pytest.mark.skipif(sys.platform != "linux", reason="runs a process as another user")


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary directory with a short path, and no runtime folder."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return folder


def lengthen(lab) -> None:
    """Give the lab a home whose own path is too long for a socket."""
    lab.home = lab.home / ("x" * 90)


def leave(lab) -> None:
    ((service, thread),) = lab.hosted
    service.leave()
    thread.join(30)


def health(lab) -> str:
    """Return where the engine of this test listens, once it answers."""
    engine, pause = lab.client(), threading.Event()
    for _ in range(400):
        if info := engine.info():
            break
        pause.wait(0.05)
    assert info
    assert info.pid == os.getpid()
    return str(read_endpoint(EnginePlaces(lab.home)))


@contextmanager
def impostor(listener: socket.socket) -> Iterator[list[bytes]]:
    """Answer every request as an engine would, and note what was received."""
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                heard.append(connection.recv(65536))
                body = json.dumps({"version": "0", "pid": 1}).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

    listener.listen()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def unix(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener


# Who answers


@by_root
def test_a_socket_of_another_user_is_not_taken_for_the_engine(lab):
    places = EnginePlaces(lab.home)
    with impostor(unix(places.socket)) as heard:
        os.chown(places.socket, OTHER_UID, OTHER_UID)
        with pytest.raises(UnsafePathError, match=f"engine.sock belongs to user {OTHER_UID}"):
            read_endpoint(places).connect(5)
        assert lab.client().info() is None
        assert heard == []
    lab.host()
    assert health(lab) == str(places.socket)


@by_root
def test_a_folder_of_another_user_is_avoided_on_both_sides(lab, temporary: Path):
    lengthen(lab)
    taken = temporary / "lingshu-0"
    guessed = taken / "guessed.sock"
    places = EnginePlaces(lab.home)
    with impostor(unix(guessed)) as heard:
        for path in (guessed, taken):
            os.chown(path, OTHER_UID, OTHER_UID)
        places.folder.mkdir(mode=0o700, parents=True)
        write_endpoint(places, Endpoint(guessed))
        with pytest.raises(UnsafePathError, match=f"lingshu-0 belongs to user {OTHER_UID}"):
            read_endpoint(places).connect(5)
        assert lab.client().info() is None
        lab.host()
        result = Path(health(lab))
        assert heard == []
    assert result.parent.parent == temporary
    assert result.parent.name.startswith("lingshu-0-")
    assert stat.S_IMODE(result.parent.stat().st_mode) == 0o700
    leave(lab)
    assert not result.parent.exists()


@pytest.mark.parametrize("open_to_others", ["engines", "engine.sock"])
def test_a_socket_that_others_can_reach_is_not_trusted(lab, open_to_others: str):
    places = EnginePlaces(lab.home)
    with impostor(unix(places.socket)) as heard:
        path = places.folder if open_to_others == "engines" else places.socket
        path.chmod(0o755)
        with pytest.raises(
            UnsafePathError, match=rf"{open_to_others} has the mode 0755.*chmod 07?6?00"
        ):
            read_endpoint(places).connect(5)
        assert lab.client().info() is None
        assert heard == []


def test_a_link_in_the_place_of_the_socket_is_not_followed(lab):
    places = EnginePlaces(lab.home)
    with impostor(unix(lab.home / "elsewhere" / "fake.sock")) as heard:
        places.folder.mkdir(mode=0o700)
        places.socket.symlink_to(lab.home / "elsewhere" / "fake.sock")
        with pytest.raises(UnsafePathError, match="not a socket"):
            read_endpoint(places).connect(5)
        places.endpoint.symlink_to(lab.home / "elsewhere" / "endpoint.json")
        with pytest.raises(UnsafePathError, match=r"endpoint\.json is a symbolic link"):
            read_endpoint(places)
        assert lab.client().info() is None
        assert heard == []


LISTEN_AS_OTHER = """
import os, socket, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); listener.listen()
print("listens", flush=True)
sys.stdin.readline()
"""
ASK_AS_OTHER = """
import os, socket, sys
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(b"GET /v1/health HTTP/1.0\\r\\nHost: engine\\r\\n\\r\\n")
    while piece := connection.recv(65536):
        sys.stdout.buffer.write(piece)
"""


def as_other(script: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-S", "-c", script, str(path), str(OTHER_UID)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd="/")


@by_root
@linux
def test_a_process_of_another_user_behind_a_socket_of_ours_is_recognised(lab, temporary: Path):
    # However it came there: the kernel says who listens.
    temporary.chmod(0o777)
    for parent in temporary.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    path = temporary / "s.sock"
    with as_other(LISTEN_AS_OTHER, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        temporary.chmod(0o700)
        os.chown(path, 0, 0)
        path.chmod(0o600)
        with pytest.raises(UnsafePathError, match=f"is user {OTHER_UID}, and this process runs as"):
            Endpoint(path).connect(5)
        process.communicate("\n")


@by_root
@linux
def test_an_engine_answers_no_other_user(lab, temporary: Path):
    lengthen(lab)
    lab.host()
    path = Path(health(lab))
    path.chmod(0o666)
    for parent in (path.parent, temporary, *temporary.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    said, _ = as_other(ASK_AS_OTHER, path).communicate()
    assert said.startswith("HTTP/1.1 403")
    assert "belongs to another user" in said
    assert "pid" not in said


def test_both_sides_look_at_who_the_kernel_says(lab, monkeypatch: pytest.MonkeyPatch):
    lab.host()
    place = health(lab)
    monkeypatch.setattr(peers, "peer_uid", lambda _: os.geteuid() + 1)
    with pytest.raises(UnsafePathError, match="not trusted"):
        Endpoint(Path(place)).connect(5)
    # An engine that sees a foreign client refuses too; this client does not look.
    monkeypatch.setattr(endpoints, "check_peer", lambda *_: None)
    with httpx.Client(transport=httpx.HTTPTransport(uds=place), base_url="http://engine") as http:
        assert http.get("/v1/health").status_code == 403
        assert http.post("/v1/shutdown").status_code == 403


def test_the_kernel_says_who_is_at_the_other_end():
    item, other = socket.socketpair()
    with item, other:
        assert peers.peer_uid(item) == os.geteuid()


def test_credentials_are_read_as_each_system_writes_them(monkeypatch: pytest.MonkeyPatch):
    class Connection:
        def getsockopt(self, *requested: int) -> bytes:
            assert requested == (0, 1, 76)
            # struct xucred: version, uid, number of groups, padding, groups.
            return b"\0\0\0\0" + (501).to_bytes(4, sys.byteorder) + b"\1\0\0\0" + b"\0" * 64

    monkeypatch.setattr(sys, "platform", "darwin")
    assert peers.peer_uid(Connection()) == 501  # type: ignore[arg-type]


def test_what_an_engine_leaves_in_a_home_is_private_whatever_the_umask(lab):
    before = os.umask(0)
    try:
        engine = lab.client()
        view = engine.wait(engine.submit(lab.arm("STAT1")).job_id, 45)
        assert view.state == "succeeded"
        engine.cells(view.job_id)
        folder = engine.places.folder
        created = {
            path: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))
        }
    finally:
        os.umask(before)
    assert engine.places.log in created
    assert created == {path: 0o700 if path.is_dir() else 0o600 for path in created}


# Where it listens


def test_the_runtime_folder_comes_before_the_temporary_directory(
    lab, temporary: Path, monkeypatch: pytest.MonkeyPatch
):
    lengthen(lab)
    runtime = temporary / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    lab.host()
    path = Path(health(lab))
    assert path.parent == runtime / "lingshu"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("bad", ["open", "missing", "relative", "link"])
def test_a_runtime_folder_that_is_not_private_is_not_used(
    lab, temporary: Path, monkeypatch: pytest.MonkeyPatch, bad: str
):
    lengthen(lab)
    runtime = temporary / "run"
    if bad == "open":
        runtime.mkdir()
        runtime.chmod(0o755)
    elif bad == "link":
        (temporary / "real").mkdir(mode=0o700)
        runtime.symlink_to(temporary / "real")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run" if bad == "relative" else str(runtime))
    lab.host()
    assert Path(health(lab)).parent == temporary / f"lingshu-{os.geteuid()}"


def test_an_open_folder_of_our_own_is_closed_before_it_is_used(lab, temporary: Path):
    lengthen(lab)
    folder = temporary / f"lingshu-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    lab.host()
    assert Path(health(lab)).parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_two_homes_with_long_paths_have_two_sockets(lab, catalogue, temporary: Path):
    places = [EnginePlaces(lab.home / (letter * 90)) for letter in "xy"]
    with local_listener(places[0]) as item, local_listener(places[1]) as other:
        assert item.endpoint.path != other.endpoint.path
    assert list((temporary / f"lingshu-{os.geteuid()}").iterdir()) == []


# Without Unix sockets


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = socket.socket.bind

    def bind(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX:
            raise OSError(errno.EPERM, "Operation not permitted")
        whole(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "bind", bind)


@pytest.mark.usefixtures("no_sockets")
def test_without_unix_sockets_the_engine_listens_on_loopback_for_holders_of_a_token(lab):
    lab.host()
    assert health(lab).startswith("127.0.0.1:")
    endpoint = read_endpoint(EnginePlaces(lab.home))
    assert endpoint.token_file
    assert stat.S_IMODE(endpoint.token_file.stat().st_mode) == 0o600
    engine, arm = lab.client(), lab.arm("STAT1")
    view = engine.wait(engine.submit(arm).job_id, 40)
    assert view.state == "succeeded"
    assert len(engine.cells(view.job_id).counts) == arm.n_cells
    with httpx.Client(base_url=f"http://{endpoint}") as http:
        assert http.get("/v1/health").status_code == 401
        wrong = {"Authorization": "Bearer no"}
        assert http.post("/v1/shutdown", headers=wrong).status_code == 401
    leave(lab)
    assert not endpoint.token_file.exists()


@pytest.mark.usefixtures("no_sockets")
def test_a_port_that_passed_to_another_process_gets_no_token_and_is_not_believed(lab):
    places = EnginePlaces(lab.home)
    with local_listener(places) as local:
        kept = places.endpoint.read_bytes()
        assert local.token
        token_file = local.endpoint.token_file
        assert token_file
        token = token_file.read_bytes()
    # A killed engine leaves both files behind.
    places.endpoint.write_bytes(kept)
    token_file.write_bytes(token)
    token_file.chmod(0o600)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(json.loads(kept)["port"])))
    with impostor(listener) as heard:
        with pytest.raises(UnsafePathError, match="does not know this engine's token"):
            read_endpoint(places).connect(5)
        assert lab.client().info() is None
    assert heard
    assert not [each for each in heard if token in each or b"Bearer" in each]


@pytest.mark.usefixtures("no_sockets")
def test_a_token_that_others_can_read_is_not_used(lab):
    lab.host()
    token_file = read_endpoint(EnginePlaces(lab.home)).token_file
    assert token_file
    token_file.chmod(0o644)
    assert lab.client().info() is None
    token_file.chmod(0o600)
    assert health(lab)


@pytest.mark.usefixtures("no_sockets")
def test_where_nothing_is_private_the_error_says_what_to_set(
    lab, temporary: Path, monkeypatch: pytest.MonkeyPatch
):
    # As on vfat: whatever is made is open to others, and modes cannot be changed.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def opened(path: Path, flags: int) -> int:
        descriptor = open_private(path, flags)
        if path.is_relative_to(lab.home):
            os.fchmod(descriptor, 0o755)
        return descriptor

    places = EnginePlaces(lab.home)
    places.folder.mkdir()
    places.folder.chmod(0o755)
    monkeypatch.setattr(listening, "open_private", opened)
    monkeypatch.setattr(listening, "_temporary_folders", list)
    monkeypatch.setattr(os, "chmod", refuse)
    refused = pytest.raises(StartError, match="set XDG_RUNTIME_DIR to a folder of your own")
    with refused, local_listener(places):
        pass
    runtime = temporary / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with local_listener(places) as local:
        assert local.endpoint.token_file
        assert local.endpoint.token_file.parent == runtime / "lingshu"
