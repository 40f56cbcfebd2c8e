"""Train from two servers at once, with keys, as on two machines; here both run on this one and are started by the script.

    python examples/two_nodes.py

On real machines you type the commands of `start_server` yourself, one server per machine, and copy the key files: the server's
secret to the servers, the client's secret to the trainer, and each public key to the other side. See README.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

from feeder_client import FeederSequence

DATA = Path(__file__).with_name("augment_sequence.py")
FEEDER_SERVER = [sys.executable, "-m", "feeder_server.cli"]  # what the command feeder-server runs


def make_keys(folder: Path) -> None:
    """Make a key pair for the servers and one for this trainer, and put the trainer's public key on the servers' guest list."""
    subprocess.run([*FEEDER_SERVER, "keygen", str(folder / "server")], check=True)
    subprocess.run([*FEEDER_SERVER, "keygen", str(folder / "client"), "--name", "client"], check=True)
    (folder / "guests").mkdir()
    shutil.copy(folder / "client" / "client.key", folder / "guests")


def start_server(keys: Path) -> subprocess.Popen[str]:
    """Start one server on a free port."""
    command = ["serve", f"train={DATA}:Train", f"val={DATA}:Val", "--workers", "1", "--bind", "tcp://127.0.0.1:0"]
    command += ["--keys", str(keys / "server"), "--authorized-clients", str(keys / "guests")]
    return subprocess.Popen([*FEEDER_SERVER, *command], stdout=subprocess.PIPE, text=True)


def endpoint_of(server: subprocess.Popen[str]) -> str:
    """Wait until a server is ready. It says so in one line: feeder-server ready at tcp://127.0.0.1:PORT."""
    line = server.stdout.readline() if server.stdout else ""
    if " ready at " not in line:
        raise SystemExit("a server did not start; its log above says why")
    return line.split(" ready at ")[1].strip()


def train(endpoints: list[str], keys: Path) -> None:
    """Train from all servers. Where one of them goes away, the others make its batches."""
    model = keras.Sequential(
        [keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    shown = {"keys": keys / "client" / "client.key_secret", "server_key": keys / "server" / "feeder.key"}
    with (
        FeederSequence(endpoints, source="train", **shown) as data,
        FeederSequence(endpoints, source="val", **shown) as val,
    ):
        model.fit(data, validation_data=val, epochs=3, verbose=2)
        print(data)


def main() -> None:
    """Make keys, start two servers, train, stop the servers."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        make_keys(keys)
        servers = [start_server(keys), start_server(keys)]
        try:
            train([endpoint_of(server) for server in servers], keys)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()
                if server.stdout:
                    server.stdout.close()


if __name__ == "__main__":
    main()
