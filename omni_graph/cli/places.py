"""Where a deployment that ``up`` holds is written down: its URL, its token, and what it serves.

Two files of ours alone (0600, in folders of 0700): one in the run's folder, one in the user's state folder, where the other
commands look. Whoever can read either may do with the deployment what he likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from omni_graph.errors import OmniGraphError
from omni_graph.links.folders import make_private, privacy_fault
from omni_graph.spec import DeploySpec, GraphSpec

FILE = "control.json"
LOOPBACK = ("127.0.0.1", "localhost")


class Place(BaseModel):
    """A running deployment. ``folder``: of its graph file, for the node files beside it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    url: str
    token: str
    pid: int
    graph: GraphSpec
    folder: str
    deploy: DeploySpec

    def to_json(self) -> str:
        """As it is written: only what was set, so that it is read back as the same."""
        return self.model_dump_json(by_alias=True, exclude_unset=True)


class Door(BaseModel):
    """How to reach a deployment; ``place`` is None where only its URL and token were given."""

    url: str
    token: str
    place: Place | None = None


def state_folder(environ: Mapping[str, str]) -> Path:
    """The user's folder of running deployments, as the XDG base directories say."""
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".local" / "state"
    return Path(state) / "omni-graph"


@contextmanager
def written(place: Place, run_folder: Path, state: Path) -> Iterator[None]:
    """Both files are there for as long as this goes on. Raises OmniGraphError where a folder is not ours alone."""
    fault = make_private(state) or privacy_fault(run_folder)
    if fault:
        raise OmniGraphError(f"the control token cannot be kept: {fault}")
    files = (run_folder / FILE, state / f"{urlsplit(place.url).port}.json")
    try:
        for file in files:
            _write(file, place.to_json())
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    """At once, and never readable to others. A file of before is of a deployment that was killed: our port is our own."""
    fresh = file.with_suffix(f".{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    fresh.replace(file)


def find(url: str | None, token: str | None, state: Path) -> Door:
    """The deployment at ``url``; without a URL, the only one that runs. Raises OmniGraphError, with those that run."""
    running = {place.url: place for place in _places(state)}
    if url is None:
        if len(running) != 1:
            raise OmniGraphError(f"which deployment? say --url URL; {_listed(running)}")
        url = next(iter(running))
    url = check_url(url)
    place = running.get(url)
    if place is None and token is None:
        raise OmniGraphError(f"no deployment of yours is held at {url}; {_listed(running)} (or give its --token)")
    return Door(url=url, token=token or (place.token if place else ""), place=place)


def check_url(url: str) -> str:
    """``http://127.0.0.1:PORT`` of any way to write it. Raises OmniGraphError: a token goes to no other machine."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme == "http" and parts.hostname in LOOPBACK and parts.port and parts.path in ("", "/"):
            return f"http://{LOOPBACK[0]}:{parts.port}"
    except ValueError:  # a port that is none
        pass
    raise OmniGraphError(f"{url}: a control URL is http://127.0.0.1:PORT, as `omni-graph up` prints it")


def _places(state: Path) -> Iterator[Place]:
    """Those whose process lives. Files that are not ours alone are not believed."""
    if not state.is_dir() or privacy_fault(state):
        return
    for file in sorted(state.glob("*.json")):
        try:
            place = Place.model_validate_json(file.read_text())
            os.kill(place.pid, 0)
        except (OSError, ValidationError):  # it has ended just now, was killed, or is of another version
            continue
        yield place


def _listed(running: Mapping[str, Place]) -> str:
    held = ", ".join(f"{url} ({place.graph.graph})" for url, place in running.items())
    return f"running: {held or 'none'}"
