"""Runs what the Dockerfiles say without a Docker engine: their steps in a fresh folder, a venv as the image's Python.

    python docker/check_steps.py                            the server's image: build, install, two nodes, a client
    python docker/check_steps.py --plan                     only say what would run, and what would not
    python docker/check_steps.py --trainer                  also Dockerfile.trainer, and its training run (fetches TensorFlow)
    python docker/check_steps.py --trainer-python PYTHON    the training run in a Python that has TensorFlow already

Each stage gets a folder in place of its file system and a venv in place of its Python; absolute paths of the image
are turned into paths in that folder. Commands that need the image's users or its package tools are listed as not run.
Nodes listen on free loopback ports, with keys made by make-keys.sh, as in compose.yaml. Exit code 0: all went well. For Linux and macOS.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dockerfile_steps as steps

DOCKER = Path(__file__).resolve().parent
CONTEXT = DOCKER.parent
NOT_HERE = ("apt-get", "groupadd", "useradd", "install", "chown")  # need the image's users or packages
START_SECONDS = 60.0
STOP_SECONDS = 15.0  # compose.yaml's stop_grace_period

CLIENT = """
import sys
from feeder_client import FeederClient
endpoints, keys, server_key = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
for source, expected in (("train", 50), ("val", 10)):
    with FeederClient(endpoints, source=source, keys=keys, server_key=server_key) as client:
        shapes = [(x.shape, str(x.dtype), y.shape, str(y.dtype)) for x, y in client]
    assert shapes == [((32, 64, 64, 3), "float32", (32,), "int32")] * expected, shapes
    print(source, len(shapes), "batches")
"""


class CheckFailed(Exception):
    """A step went wrong; the message says which."""


class Image:
    """A Dockerfile's stages, carried out in folders under `root`."""

    def __init__(self, dockerfile: Path, root: Path, python: str, plan_only: bool) -> None:
        self.dockerfile = dockerfile
        self.ignore = dockerfile.with_name(dockerfile.name + ".dockerignore").read_text(encoding="utf-8")
        self.stages = steps.stages(steps.parse(dockerfile.read_text(encoding="utf-8")))
        self.root = root
        self.python = python
        self.plan_only = plan_only
        self.verb = "to run" if plan_only else "run"
        self.final = self.stages[-1]

    def folder(self, stage: str, path: str = "/") -> Path:
        """Where a path of a stage's file system lies here."""
        return self.root / stage / path.lstrip("/")

    def environment(self, stage: steps.Stage) -> dict[str, str]:
        """The caller's environment, the stage's ENV over it, and the stage's venv first on PATH."""
        binaries = self.root / f"venv-{stage.name}" / "bin"
        inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        return {**inherited, **steps.environment(stage), "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def build(self) -> None:
        """Carry out all stages in order.

        Raises:
            CheckFailed: a COPY without source, or a command that failed.
        """
        for stage in self.stages:
            print(f"\n== {self.dockerfile.name}, stage {stage.name}: FROM {stage.base}")
            if not self.plan_only:
                self.folder(stage.name).mkdir(parents=True)
                run([self.python, "-m", "venv", str(self.root / f"venv-{stage.name}")])
            workdir = "/"
            for instruction in stage.instructions:
                if instruction.name == "WORKDIR":
                    workdir = instruction.text
                    self._say(self.verb, instruction.name, instruction.text)
                    if not self.plan_only:
                        self.folder(stage.name, workdir).mkdir(parents=True, exist_ok=True)
                elif instruction.name == "COPY":
                    self._copy(stage, instruction, workdir)
                elif instruction.name == "RUN":
                    self._run(stage, instruction, workdir)
                else:
                    self._say("noted", instruction.name, instruction.text)

    def _say(self, what: str, name: str, text: str) -> None:
        print(f"  {what:8} {name} {text}", flush=True)

    def _copy(self, stage: steps.Stage, copy: steps.Instruction, workdir: str) -> None:
        *sources, target = copy.text.split()
        self._say(self.verb, "COPY", " ".join([*(f"--{k}={v}" for k, v in copy.flags.items()), copy.text]))
        destination = self.folder(stage.name, target if target.startswith("/") else f"{workdir}/{target}")
        many = target.endswith("/") or len(sources) > 1
        for source in sources:
            if "from" in copy.flags:
                origin = self.folder(copy.flags["from"], source)
                if not self.plan_only:
                    shutil.copytree(origin, destination, dirs_exist_ok=True)
                continue
            kept = list(self.context_files(source))
            if not kept:
                raise CheckFailed(f"COPY {source}: not in the build context, or kept out by the .dockerignore file")
            if self.plan_only:
                continue
            is_folder = (CONTEXT / source).is_dir()
            for file in kept:
                inside = file.relative_to(CONTEXT / source) if is_folder else Path(file.name if many else "")
                (destination / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, destination / inside)

    def context_files(self, source: str) -> Iterator[Path]:
        """The files that `COPY source` finds once the .dockerignore file has been heeded."""
        start = CONTEXT / source
        for file in [start] if start.is_file() else sorted(start.rglob("*")):
            if file.is_file() and not steps.ignored(file.relative_to(CONTEXT).as_posix(), self.ignore):
                yield file

    def _run(self, stage: steps.Stage, instruction: steps.Instruction, workdir: str) -> None:
        commands = steps.shell_commands(instruction)
        here = [command for command in commands if not command.startswith(NOT_HERE)]
        for command in commands:
            if command not in here:
                self._say("NOT run", "RUN", command)
        if not here:
            return
        script = " && ".join(here)
        self._say(self.verb, "RUN", script)
        if not self.plan_only:
            # /opt/feeder/x -> ROOT/STAGE/opt/feeder/x; a path starts after a blank or a quote.
            mapped = re.sub(r"(?<=[\s\"'])/(?=\w)", f"{shlex.quote(str(self.folder(stage.name)))}/", script)
            run(["/bin/sh", "-euc", mapped], cwd=self.folder(stage.name, workdir), env=self.environment(stage))

    def command(self, *arguments: str) -> list[str]:
        """The words that a container of the final stage would run."""
        entrypoint, default = self.final.last("ENTRYPOINT"), self.final.last("CMD")
        words = (entrypoint.exec_form or []) if entrypoint else []
        return words + (list(arguments) or (default.exec_form or [] if default else []))


def run(words: list[str], **options: object) -> None:
    """Run a command to its end; its output goes through.

    Raises:
        CheckFailed: it wasn't found or gave an exit code other than 0.
    """
    sys.stdout.flush()
    environment = options.get("env") or os.environ
    program = shutil.which(words[0], path=environment["PATH"])  # type: ignore[index]
    if program is None:
        raise CheckFailed(f"{words[0]}: not there after the image's steps")
    code = subprocess.run([program, *words[1:]], **options).returncode  # type: ignore[call-overload]
    if code:
        raise CheckFailed(f"{shlex.join(words[:4])} ... gave exit code {code}")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(image: Image, port: int, keys: Path) -> Iterator[None]:
    """A running node of the server's image; stopped with the image's STOPSIGNAL, which it has to obey in time."""
    stop = image.final.last("STOPSIGNAL")
    number = signal.Signals[stop.text] if stop else signal.SIGTERM
    words = image.command(
        "serve", "train=augment.py:train", "val=augment.py:val", f"--bind=tcp://127.0.0.1:{port}",
        f"--keys={keys}/server", f"--authorized-clients={keys}/clients", "--workers=1",
    )  # fmt: skip
    environment = image.environment(image.final)
    print(f"  node: {shlex.join(words)}", flush=True)
    program = shutil.which(words[0], path=environment["PATH"])
    workdir = image.folder(image.final.name, image.final.last("WORKDIR").text)  # type: ignore[union-attr]
    process = subprocess.Popen([str(program), *words[1:]], cwd=workdir, env=environment)
    try:
        wait_until_listening(port, process)
        yield
        process.send_signal(number)
        code = process.wait(STOP_SECONDS)
        print(f"  node on port {port}: {number.name}, exit code {code}")
        if code != 0:
            raise CheckFailed(f"the node gave exit code {code} after {number.name}, not 0")
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"the node still ran {STOP_SECONDS:.0f} s after {number.name}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the port takes connections.

    Raises:
        CheckFailed: the process ended first, or START_SECONDS went by.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CheckFailed(f"the node ended at once, exit code {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise CheckFailed(f"nothing listens on port {port} after {START_SECONDS:.0f} s")


def serve_and_check(server: Image, trainer: Image | None, trainer_python: str | None) -> None:
    """The smoke test: version, keys, two nodes, health check, a client, and a training run if asked for."""
    environment = server.environment(server.final)
    print("\n== what a container would do")
    run(server.command("--version"), env=environment)

    folder = server.folder(server.final.name)
    node_keys, trainer_keys = folder / "keys/node", folder / "keys/trainer"
    for _ in range(2):  # the second time it has to keep them
        run(["/bin/sh", str(DOCKER / "make-keys.sh"), str(node_keys), str(trainer_keys)], env=environment)
    workdir = folder / server.final.last("WORKDIR").text.lstrip("/")  # type: ignore[union-attr]
    shutil.copy(DOCKER / "augment.py", workdir)  # compose.yaml mounts it there

    ports = [free_port(), free_port()]
    endpoints = ",".join(f"tcp://127.0.0.1:{port}" for port in ports)
    secret, server_key = str(trainer_keys / "client.key_secret"), str(trainer_keys / "feeder.key")
    with ExitStack() as nodes:
        for port in ports:
            nodes.enter_context(node(server, port, node_keys))
        health = server.final.last("HEALTHCHECK").exec_form or []  # type: ignore[union-attr]
        run([word.replace("5555", str(ports[0])) for word in health], env=environment)
        print("  health check: passed")
        # server.root: a folder without feeder's source, so that the installed packages are imported.
        run(["python", "-c", CLIENT, endpoints, secret, server_key], env=environment, cwd=server.root)
        variables = {"FEEDER_ENDPOINTS": endpoints, "FEEDER_KEYS": secret, "FEEDER_SERVER_KEY": server_key}
        if trainer is not None:
            home = trainer.folder(trainer.final.name, trainer.final.last("WORKDIR").text)  # type: ignore[union-attr]
            run(trainer.command(), env={**trainer.environment(trainer.final), **variables}, cwd=home)
        elif trainer_python is not None:
            target = server.root / "for-trainer-python"
            wheel = next(folder.rglob("*.whl"))
            run(["pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)], env=environment)
            extra = {**os.environ, **variables, "PYTHONPATH": str(target)}
            run([trainer_python, str(DOCKER / "train.py")], env=extra, cwd=server.root)


def main() -> int:
    """Parse the arguments, carry out the steps, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="in place of the image's (default: this one)")
    parser.add_argument("--plan", action="store_true", help="only list the steps")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    parser.add_argument("--trainer", action="store_true", help="also build and run the trainer's image")
    parser.add_argument("--trainer-python", metavar="PYTHON", help="run train.py in this Python, which has TensorFlow")
    options = parser.parse_args()

    root = Path(tempfile.mkdtemp(prefix="feeder-steps-"))
    try:
        server = Image(DOCKER / "Dockerfile", root / "server", options.python, options.plan)
        server.build()
        trainer = None
        if options.trainer or options.plan:
            trainer = Image(DOCKER / "Dockerfile.trainer", root / "trainer", options.python, options.plan)
            trainer.build()
        if not options.plan:
            serve_and_check(server, trainer, options.trainer_python)
    except (CheckFailed, steps.DockerfileError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"left in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    print("\nplan is consistent, nothing was run" if options.plan else "\nall steps passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
