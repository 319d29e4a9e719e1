"""Runs found in an account, as text and as JSON. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from s3bulkcopy.view import count_text, duration_text, safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3bulkcopy.aws.discover import FoundRun


def run_as_json(found: FoundRun) -> dict[str, Any]:
    """Give a run as --output json has it."""
    return {
        "run_id": found.run_id,
        "source": found.source,
        "destination": found.destination,
        "created": found.created,
        "version": found.version,
        "state": state_of(found),
        "depths": {kind: [depth.waiting, depth.in_flight] for kind, depth in found.depths.items()},
        "dead_letters": found.dead_letters,
        "mappings": found.mappings,
        "resources": [{"kind": thing.kind, "name": thing.name, "id": thing.id} for thing in found.resources],
    }


def state_of(found: FoundRun) -> str:
    """Tell in a word how a run is."""
    if found.halted:
        return "halted"
    if not found.mappings:
        return "remains"
    return "running" if all(state in ("Enabled", "Creating", "Enabling") for state in found.mappings.values()) else "stopped"


def runs_as_text(runs: Sequence[FoundRun], region: str, now: datetime, *, flags: str | None = None) -> str:
    """Write runs for people; with `flags`, those of the command that removes a run, every resource is named too."""
    if not runs:
        return f"no runs in {region}"
    return "\n".join(line for found in runs for line in _lines(found, now, flags))


def _lines(found: FoundRun, now: datetime, flags: str | None) -> list[str]:
    age = f", {_age(found.created, now)} old" if found.created else ""
    queues = "  ".join(
        f"{kind} {count_text(depth.waiting)}+{count_text(depth.in_flight)}"
        for kind, depth in found.depths.items()
        if not kind.endswith("-dead")
    )
    held = f"dead letters {count_text(found.dead_letters)}  resources {len(found.resources)}"
    what = f"  {safe(found.source)} -> {safe(found.destination)}" if found.source else ""
    lines = [
        f"{found.run_id}  {state_of(found)}{age}{what}",
        f"  queues (waiting+in flight): {queues or 'none'}  {held}",
    ]
    if flags is not None:
        lines += [f"  made by s3bulkcopy {found.version} at {found.created}"] if found.created else []
        lines += [f"  mapping {name}: {state}" for name, state in found.mappings.items()]
        lines += [f"  {thing.kind:9} {safe(thing.name)}" for thing in found.resources]
        lines += [f"  remove everything with: s3bulkcopy teardown {found.run_id}{flags}"]
    return lines


def _age(created: str, now: datetime) -> str:
    try:
        began = datetime.fromisoformat(created)
    except ValueError:
        return "unknown"
    return duration_text(max(0.0, (now - began.astimezone(UTC)).total_seconds()))
