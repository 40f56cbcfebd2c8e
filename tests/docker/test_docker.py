"""The files in docker/ agree with each other, with the repository and with the rules of this project; no engine needed."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ["Dockerfile", "Dockerfile.trainer"]


def load(name: str) -> ModuleType:
    """Import docker/NAME.py by its path; the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"docker_demo_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


steps = load("dockerfile_steps")
augment = load("augment")


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    return DOCKER / request.param


@pytest.fixture
def stages(dockerfile: Path) -> list[Any]:
    return steps.stages(steps.parse(dockerfile.read_text(encoding="utf-8")))


@pytest.fixture
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


class TestDockerfiles:
    def test_every_base_is_one_exact_slim_tag(self, stages: list[Any]) -> None:
        assert len({stage.base for stage in stages}) == 1
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", stages[0].base)

    def test_both_files_have_the_same_base(self) -> None:
        texts = [(DOCKER / name).read_text(encoding="utf-8") for name in DOCKERFILES]
        assert len({stage.base for text in texts for stage in steps.stages(steps.parse(text))}) == 1

    def test_every_source_of_a_copy_is_there_and_in_the_context(self, dockerfile: Path, stages: list[Any]) -> None:
        patterns = dockerfile.with_name(dockerfile.name + ".dockerignore").read_text(encoding="utf-8")
        names = {stage.name for stage in stages}
        for stage in stages:
            for copy in (i for i in stage.instructions if i.name == "COPY"):
                if "from" in copy.flags:
                    assert copy.flags["from"] in names
                    continue
                for source in copy.text.split()[:-1]:
                    assert (ROOT / source).exists(), f"line {copy.line}: {source} isn't there"
                    assert not steps.ignored(source, patterns), f"line {copy.line}: {source} is kept out of the context"

    def test_the_context_holds_no_more_than_is_copied(self, dockerfile: Path) -> None:
        patterns = dockerfile.with_name(dockerfile.name + ".dockerignore").read_text(encoding="utf-8")
        for path in [".git/config", "tests/x.py", "docker/compose.yaml", "feeder_wire/__pycache__/x.pyc", "key_secret", "docs/a.md"]:
            assert steps.ignored(path, patterns), path

    def test_the_image_does_not_run_as_root(self, stages: list[Any]) -> None:
        final = stages[-1].instructions
        user = stages[-1].last("USER")
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text)
        assert all(i.name not in ("RUN", "COPY") for i in final[final.index(user) :])

    def test_signals_reach_the_program(self, stages: list[Any]) -> None:
        assert stages[-1].last("ENTRYPOINT").exec_form
        assert stages[-1].last("CMD").exec_form
        assert stages[-1].last("STOPSIGNAL").text == "SIGTERM"

    def test_installs_keep_to_the_constraints(self, stages: list[Any]) -> None:
        installs = [c for i in stages[-1].instructions if i.name == "RUN" for c in steps.shell_commands(i) if c.startswith("pip install")]
        assert len(installs) == 1
        assert "--constraint /opt/feeder/constraints.txt" in installs[0]

    def test_the_server_has_no_tensorflow(self) -> None:
        instructions = steps.parse((DOCKER / "Dockerfile").read_text(encoding="utf-8"))
        assert not [i for i in instructions if "tensorflow" in i.text.lower()]

    def test_the_health_check_is_python_only_and_tells_listening_from_not(self) -> None:
        final = steps.stages(steps.parse((DOCKER / "Dockerfile").read_text(encoding="utf-8")))[-1]
        words = final.last("HEALTHCHECK").exec_form
        assert words[:2] == ["python", "-c"]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            code = words[2].replace("5555", str(listener.getsockname()[1]))
            assert code != words[2]
            assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
            listener.listen()
            assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


class TestCompose:
    def test_endpoints_name_the_node_services(self, compose: dict[str, Any]) -> None:
        endpoints = compose["services"]["trainer"]["environment"]["FEEDER_ENDPOINTS"].split(",")
        nodes = {name for name, service in compose["services"].items() if "serve" in service.get("command", [])}
        port = steps.stages(steps.parse((DOCKER / "Dockerfile").read_text(encoding="utf-8")))[-1].last("EXPOSE").text
        assert sorted(endpoints) == sorted(f"tcp://{name}:{port}" for name in nodes)
        assert len(nodes) >= 2
        assert set(compose["services"]["trainer"]["depends_on"]) == nodes
        for name in nodes:
            assert f"--bind=tcp://0.0.0.0:{port}" in compose["services"][name]["command"]

    def test_nothing_is_published_and_the_network_is_internal(self, compose: dict[str, Any]) -> None:
        assert all("ports" not in service for service in compose["services"].values())
        assert compose["networks"] == {"feed": {"internal": True}}
        for name, service in compose["services"].items():
            assert service.get("network_mode") == "none" if name == "keys" else service["networks"] == ["feed"]

    def test_builds_and_mounts_name_files_that_are_there(self, compose: dict[str, Any]) -> None:
        for service in compose["services"].values():
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            for source in (volume.split(":")[0] for volume in service["volumes"]):
                assert (DOCKER / source).is_file() if source.startswith(".") else source in compose["volumes"]

    def test_sources_exist_in_augment(self, compose: dict[str, Any]) -> None:
        targets = [word for word in compose["services"]["node1"]["command"] if "augment.py:" in word]
        assert targets
        for target in targets:
            assert callable(getattr(augment, target.split(":")[1]))

    def test_each_side_sees_its_own_secret_only(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        assert not [v for v in services["trainer"]["volumes"] if v.startswith("node-keys")]
        assert not [v for name in ("node1", "node2") for v in services[name]["volumes"] if v.startswith("trainer-keys")]
        assert all(v.endswith(":ro") for name, s in services.items() if name != "keys" for v in s["volumes"])

    def test_the_folders_that_volumes_cover_are_made_for_the_user(self, compose: dict[str, Any]) -> None:
        """A new named volume is root's unless the image has a folder of the user's at that place."""
        for service in compose["services"].values():
            text = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
            final = steps.stages(steps.parse(text))[-1]
            made = " ".join(c for i in final.instructions if i.name == "RUN" for c in steps.shell_commands(i) if c.startswith("install "))
            assert "--owner=feeder" in made
            for volume in service["volumes"]:
                if not volume.startswith("."):
                    assert volume.split(":")[1] in made.split()


class TestDemoData:
    @pytest.mark.parametrize("name", ["train", "val"])
    def test_batches_are_what_the_model_takes(self, name: str) -> None:
        source = getattr(augment, name)(samples=20, batch_size=8)
        assert len(source) == 2
        for index in range(len(source)):
            x, y = source[index]
            assert (x.shape, x.dtype) == ((8, augment.SIZE, augment.SIZE, 3), np.float32)
            assert (y.shape, y.dtype) == ((8,), np.int32)
            assert x.min() >= 0.0
            assert x.max() <= 1.0
            assert set(y) <= set(range(len(augment.CLASSES)))
        with pytest.raises(IndexError):
            source[len(source)]

    def test_an_epoch_has_every_sample_once_in_a_new_order(self) -> None:
        source = augment.train(samples=40, batch_size=8)
        before = source.samples.copy()
        source.on_epoch_end()
        assert list(before) != list(source.samples)
        assert sorted(before) == sorted(source.samples)

    def test_augmentation_changes_train_and_not_val(self) -> None:
        train, val = augment.train(samples=8, batch_size=8), augment.val(samples=8, batch_size=8)
        assert not np.array_equal(train[0][0], train[0][0])
        assert np.array_equal(val[0][0], val[0][0])

    def test_validation_samples_are_not_trained_on(self) -> None:
        assert not set(augment.train().samples) & set(augment.val().samples)

    def test_only_numpy_is_imported(self) -> None:
        text = (DOCKER / "augment.py").read_text(encoding="utf-8")
        assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) == {"__future__", "numpy"}


class TestReader:
    """dockerfile_steps: what check_steps.py and the tests above rest on."""

    def test_instructions_flags_comments_and_continued_lines(self) -> None:
        text = "# c\nFROM a:1 AS b\n\nRUN x && \\\n  # inside\n    y\nFROM a:1\nCOPY --from=b /p /q\n"
        first, second = steps.stages(steps.parse(text))
        assert (first.base, first.name, second.name) == ("a:1", "b", "1")
        assert steps.shell_commands(first.instructions[0]) == ["x", "y"]
        assert first.instructions[0].line == 4
        assert second.instructions[0].flags == {"from": "b"}
        assert second.instructions[0].text == "/p /q"

    def test_exec_and_shell_form(self) -> None:
        run, check = steps.parse('ENTRYPOINT ["a", "b"]\nHEALTHCHECK --interval=1s CMD ["c"]\n')
        assert (run.exec_form, check.exec_form) == (["a", "b"], ["c"])
        assert steps.parse("ENTRYPOINT a b\n")[0].exec_form is None

    @pytest.mark.parametrize("text", ["ADD a b\n", "RUN cat <<EOF\n", "WORKDIR $HOME\n", "RUN a && \\\n", 'CMD ["a", 1]\n'])
    def test_what_it_cannot_read_raises(self, text: str) -> None:
        with pytest.raises(steps.DockerfileError):
            _ = [i.exec_form for i in steps.parse(text)]

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("a", True),
            ("keep", False),
            ("keep/deep/x.py", False),
            ("keep/__pycache__/x.pyc", True),
            ("keep/x.pyc", True),
            ("d/one", False),
            ("d/two", True),
        ],
    )
    def test_ignore_rules(self, path: str, expected: bool) -> None:
        assert steps.ignored(path, "*\n!keep\n!d/one\n**/__pycache__\n# c\n**/*.py[cod]\n") is expected
