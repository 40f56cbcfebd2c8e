"""Keys on disk and on sockets, what counts as loopback, what is an endpoint; and sizes, which users write beside them."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st

from feeder_wire.errors import ConfigError
from feeder_wire.security import (
    KeyPair,
    check_endpoint,
    is_loopback,
    load_authorized,
    load_pair,
    load_public,
    make_key_files,
    secure_client,
    secure_server,
)
from feeder_wire.sizes import parse_size


class TestKeyFiles:
    def test_made_keys_can_be_loaded(self, tmp_path: Path) -> None:
        public, secret = make_key_files(tmp_path / "new" / "keys")
        pair = load_pair(tmp_path / "new" / "keys")
        assert (public.name, secret.name) == ("feeder.key", "feeder.key_secret")
        assert load_pair(secret) == pair
        assert load_public(public) == load_public(public.parent) == load_public(secret) == pair.public
        assert pair.public == zmq.curve_public(pair.secret)
        assert pair.secret not in public.read_bytes()

    def test_each_pair_is_another(self, tmp_path: Path) -> None:
        pairs = [load_pair(make_key_files(tmp_path, name)[1]) for name in ("a", "b", "größe", "v1.2")]
        assert len({p.secret for p in pairs}) == len({p.public for p in pairs}) == 4

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
    def test_the_secret_is_for_its_owner_only_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            public, secret = make_key_files(tmp_path / "keys")
            assert os.umask(0) == 0, "the umask is put back"
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys", secret, public)]
        assert modes == [0o700, 0o600, 0o644]

    @pytest.mark.parametrize("there", ["feeder.key", "feeder.key_secret"])
    def test_a_key_is_never_overwritten(self, tmp_path: Path, there: str) -> None:
        (tmp_path / there).write_text("precious")
        with pytest.raises(ConfigError, match=f"{re.escape(there)} is there already"):
            make_key_files(tmp_path)
        assert os.listdir(tmp_path) == [there]
        assert (tmp_path / there).read_text() == "precious"

    @pytest.mark.parametrize("name", ["", " ", ".hidden", "../up", "a/b", "a\\b", "a:b", "a*", "nul\0", "line\nbreak"])
    def test_names_that_are_no_file_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="can't be the name of a key file"):
            make_key_files(tmp_path, name)
        assert os.listdir(tmp_path) == []

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="can't write keys to"):
            make_key_files(tmp_path / "file" / "keys")

    def test_a_secret_is_not_shown(self, tmp_path: Path) -> None:
        pair = KeyPair.fresh()
        assert pair.secret.decode() not in repr(pair)
        assert pair.public.decode() in repr(pair)

    def test_the_only_pair_of_a_folder_needs_no_name(self, tmp_path: Path) -> None:
        _, secret = make_key_files(tmp_path, "laptop")
        assert load_pair(tmp_path) == load_pair(secret)

    def test_feeder_goes_before_others(self, tmp_path: Path) -> None:
        make_key_files(tmp_path, "laptop")
        _, secret = make_key_files(tmp_path)
        assert load_pair(tmp_path) == load_pair(secret)

    def test_no_pair_and_too_many(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"holds no \.key_secret file \(feeder-server keygen"):
            load_pair(tmp_path)
        make_key_files(tmp_path, "a")
        make_key_files(tmp_path, "b")
        with pytest.raises(ConfigError, match=r"several \.key_secret files: name the one to use"):
            load_pair(tmp_path)

    def test_a_public_file_is_no_pair(self, tmp_path: Path) -> None:
        public, _ = make_key_files(tmp_path)
        with pytest.raises(ConfigError, match="holds no secret key"):
            load_pair(public)

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        for load in (load_pair, load_public):
            with pytest.raises(ConfigError, match=r"can't read the key file .*gone"):
                load(tmp_path / "gone")
        with pytest.raises(ConfigError, match=r"holds no feeder\.key; name the file"):
            load_public(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"# a comment\n",
            bytes(range(256)),
            b'curve\n  public-key = "' + b"a" * 39 + b'"\n',
            b'curve\n  public-key = "' + b"~" * 40 + b'"\n',
            'curve\n  public-key = "é{}"\n'.format("a" * 38).encode(),
            b'curve\n  public-key = "' + b"a" * 40 + b'"\n  secret-key = "short"\n',
            b'curve\n  public-key = "' + b"a" * 40 + b'"\n  secret-key = "' + b"," * 40 + b'"\n',
        ],
    )
    def test_files_that_hold_no_key(self, tmp_path: Path, text: bytes) -> None:
        # A key of the right length with a wrong character passes pyzmq's loader, and fails much later, in a socket.
        path = tmp_path / "feeder.key_secret"
        path.write_bytes(text)
        with pytest.raises(ConfigError, match="is not a key file"):
            load_pair(path)

    def test_authorized_are_the_public_keys_of_a_folder(self, tmp_path: Path) -> None:
        made = [make_key_files(tmp_path, name) for name in ("a", "b")]
        made[1][1].unlink()
        (tmp_path / "readme.txt").write_text("not a key")
        assert load_authorized(tmp_path) == {load_public(public) for public, _ in made}

    def test_nobody_authorized_is_a_mistake(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"holds no \*\.key file, so no client could connect"):
            load_authorized(tmp_path)
        for path in (tmp_path / "gone", make_key_files(tmp_path)[0]):
            with pytest.raises(ConfigError, match="is not a folder with the public keys"):
                load_authorized(path)

    def test_one_bad_key_among_the_authorized_is_reported(self, tmp_path: Path) -> None:
        make_key_files(tmp_path)
        (tmp_path / "bad.key").write_text("x")
        with pytest.raises(ConfigError, match=r"bad\.key is not a key file"):
            load_authorized(tmp_path)


def test_keys_on_sockets_let_the_right_ones_talk() -> None:
    server, client = KeyPair.fresh(), KeyPair.fresh()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        secure_server(router, server)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        secure_client(dealer, client, server.public)
        dealer.linger = 0
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"hello")
        assert router.poll(10_000)
        assert router.recv_multipart()[1] == b"hello"


class TestLoopback:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
    def test_stays_on_this_machine(self, host: str) -> None:
        assert is_loopback(f"tcp://{host}:5555")
        assert is_loopback(f"tcp://{host}:0")
        assert is_loopback(f"tcp://{host}:*")

    @pytest.mark.parametrize(
        "host",
        ["0.0.0.0", "*", "192.168.0.7", "10.0.0.1", "[::]", "eth0", "lo", "example.org", "localhost.example.org", "127.0.0.1.nip.io", ""],
    )
    def test_everything_else_can_be_reached(self, host: str) -> None:
        assert not is_loopback(f"tcp://{host}:5555")

    def test_what_is_no_endpoint_is_not_loopback(self) -> None:
        assert not is_loopback("tcp://127.0.0.1")
        assert not is_loopback("")
        assert not is_loopback("ipc:///tmp/x")


class TestEndpoints:
    @pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "tcp://gpu-box:1", "tcp://[::1]:65535", "tcp://größe.example:80"])
    def test_good_ones(self, endpoint: str) -> None:
        check_endpoint(endpoint)
        check_endpoint(endpoint, bind=True)

    @pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:0", "tcp://*:*", "tcp://*:5555"])
    def test_good_ones_for_servers(self, endpoint: str) -> None:
        check_endpoint(endpoint, bind=True)

    @pytest.mark.parametrize(
        "endpoint",
        [
            "", "tcp://", "127.0.0.1:5555", "localhost", "tcp://localhost", "tcp://:5555", "tcp://h:", "tcp://h:x", "tcp://h:-1",
            "tcp://h:65536", "tcp://h:٣", "tcp://h:" + "9" * 5000, "tcp://a/b:1", "tcp://a b:1", "tcp://me@h:1", "ipc:///tmp/x",
            "http://h:80", "TCP://h:1", "tcp://h: 1", None, 5555, b"tcp://h:1",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("bind", [False, True])
    def test_bad_ones(self, endpoint: str, bind: bool) -> None:
        with pytest.raises(ConfigError, match="is not an endpoint: write tcp://HOST:PORT"):
            check_endpoint(endpoint, bind=bind)

    def test_a_client_needs_the_port_itself(self) -> None:
        with pytest.raises(ConfigError, match="use the port that the server printed"):
            check_endpoint("tcp://127.0.0.1:0")
        with pytest.raises(ConfigError):
            check_endpoint("tcp://127.0.0.1:*")

    @given(st.text(max_size=40), st.booleans())
    def test_never_raises_anything_else(self, text: str, bind: bool) -> None:
        for endpoint in (text, f"tcp://{text}", f"tcp://h:{text}"):
            is_loopback(endpoint)
            try:
                check_endpoint(endpoint, bind=bind)
            except ConfigError:
                pass


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("2 gib", 2 << 30), (" 1.5GiB ", 3 << 29), ("500MB", 500_000_000), ("1048576", 1 << 20),
            ("2000000B", 2_000_000), ("0.5TB", 500_000_000_000), ("2048KiB", 2 << 20),
        ],
    )  # fmt: skip
    def test_good_ones(self, text: str, size: int) -> None:
        assert parse_size(text) == size

    @pytest.mark.parametrize(
        "text", ["", "GiB", "-1GiB", "1 G", "1GiBs", "1e9", "0x10", "1,5GiB", "1.GiB", "٣MiB", "9" * 400 + "GiB", None, 1.5]
    )
    def test_bad_ones(self, text: str) -> None:
        with pytest.raises(ConfigError, match="is not a size: write for example 512MiB or 2GiB"):
            parse_size(text)

    @pytest.mark.parametrize("text", ["0", "1", "1KiB", "1048575", "0.5MiB"])
    def test_too_small(self, text: str) -> None:
        with pytest.raises(ConfigError, match="give at least 1MiB"):
            parse_size(text)
