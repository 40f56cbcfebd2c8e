"""How a worker process is started. Light: a private server starts its workers before it has loaded anything else, see early_workers.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = str(Path(__file__).resolve().parent.parent)
# The current folder, which -c puts first on sys.path, goes: a json.py there must not be ours. The folder of the packages goes last:
# first, it would put site-packages before the standard library.
_PATH = f"import sys; sys.path[:] = [*filter(None, sys.path), {_PACKAGES!r}]"
BOOT = f"{_PATH}; from feeder_server.worker import main; main()"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


def worker_command() -> list[str]:
    """The command line of every worker; what it is to do comes through its stdin pipe."""
    return [sys.executable, "-c", BOOT]


def worker_environment(threads: int, gpu: bool) -> dict[str, str]:
    """The environment of a worker: it must be set before the interpreter starts, BLAS and CUDA read it only once."""
    env = dict(os.environ)
    for name in _THREAD_VARIABLES:
        env.setdefault(name, str(threads))
    if not gpu:
        env.update(CUDA_VISIBLE_DEVICES="-1", HIP_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # a tick in user code's print would end a worker in cp1252
    return env


def worker_options(env: dict[str, str]) -> dict[str, Any]:
    """What `subprocess.Popen` is told besides the command line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # Ctrl-C reaches every process of a console: the node owns it, the workers are out of its reach.
    if sys.platform == "win32":
        return {**pipes, "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP, "env": env}
    return {**pipes, "start_new_session": True, "env": env}
