"""Runs found in an account or on this machine, as text and as JSON. Pure."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from s3bulkcopy.aws.stack import RETENTION_SECONDS, begun
from s3bulkcopy.view import count_text, duration_text, safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s3bulkcopy.aws.discover import FoundRun
    from s3bulkcopy.journal import LocalRun


def run_as_json(found: FoundRun) -> dict[str, Any]:
    """Give a run as --output json has it."""
    return {
        "run_id": found.run_id,
        "engine": "lambda",
        "source": found.source,
        "destination": found.destination,
        "created": found.created,
        "version": found.version,
        "state": state_of(found),
        "reports_until": reports_until(found) if state_of(found) == AWAITING else None,
        "depths": {kind: [depth.waiting, depth.in_flight] for kind, depth in found.depths.items()},
        "dead_letters": found.dead_letters,
        "mappings": found.mappings,
        "resources": [{"kind": thing.kind, "name": thing.name, "id": thing.id} for thing in found.resources],
    }


#: A run of which nothing is left to do, and whose reports nobody takes.
AWAITING = "finished, awaiting attach"


def state_of(found: FoundRun) -> str:
    """Tell in a word how a run is; whether it has finished only about, as depths lag."""
    if found.halted:
        return "halted"
    if not found.mappings:
        return "remains"
    if not all(state in ("Enabled", "Creating", "Enabling") for state in found.mappings.values()):
        return "stopped"
    return AWAITING if _awaits_attach(found) else "running"


def _awaits_attach(found: FoundRun) -> bool:
    """Tell whether nothing is left to do and reports wait: a command that watches a run takes its reports at once."""
    work = [found.depths[kind] for kind in ("list", "copy") if kind in found.depths]
    is_idle = bool(work) and not any(depth.waiting or depth.in_flight for depth in work)
    return is_idle and "reports" in found.depths and found.depths["reports"].waiting > 0


def reports_until(found: FoundRun) -> str | None:
    """Give until when at least a run's reports wait: SQS keeps a message for 14 days, and none is older than the run."""
    began = created_at(found)
    return time_text(began + timedelta(seconds=RETENTION_SECONDS)) if began is not None else None


def created_at(found: FoundRun) -> datetime | None:
    """Tell when a run was begun, as its tags say or else its name; None where neither can be read."""
    for text in (found.created, f"{found.run_id[:8]}T{found.run_id[9:15]}+00:00"):
        with suppress(ValueError):
            return datetime.fromisoformat(text).astimezone(UTC)
    return None


def time_text(time: datetime) -> str:
    """Write a time to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def when(seconds: float) -> str:
    """Write a time that is given in seconds since the epoch."""
    return time_text(datetime.fromtimestamp(seconds, UTC))


def runs_as_text(runs: Sequence[FoundRun], region: str, now: datetime, *, flags: str | None = None) -> str:
    """Write runs for people; with `flags`, those of the command that removes a run, every resource is named too."""
    if not runs:
        return f"no runs in {region}"
    return "\n".join(line for found in runs for line in _lines(found, now, flags))


def run_as_line(found: FoundRun) -> str:
    """Write how a run is for people, as one line that changes when that does."""
    return f"{found.run_id}  {state_of(found)}  queues (waiting+in flight): {_queues(found)}  {_held(found)}"


def _queues(found: FoundRun) -> str:
    depths = [
        f"{kind} {count_text(depth.waiting)}+{count_text(depth.in_flight)}"
        for kind, depth in found.depths.items()
        if not kind.endswith("-dead")
    ]
    return "  ".join(depths) or "none"


def _held(found: FoundRun) -> str:
    return f"dead letters {count_text(found.dead_letters)}  resources {len(found.resources)}"


def _lines(found: FoundRun, now: datetime, flags: str | None) -> list[str]:
    until = f" (probably; its reports wait until {reports_until(found)})" if state_of(found) == AWAITING else ""
    age = f", {_age(found.created, now)} old" if found.created else ""
    what = f"  {safe(found.source)} -> {safe(found.destination)}" if found.source else ""
    lines = [
        f"{found.run_id}  {state_of(found)}{until}{age}{what}",
        f"  queues (waiting+in flight): {_queues(found)}  {_held(found)}",
    ]
    if flags is not None:
        lines += [f"  made by s3bulkcopy {found.version} at {found.created}"] if found.created else []
        lines += [f"  mapping {name}: {state}" for name, state in found.mappings.items()]
        lines += [f"  {thing.kind:9} {safe(thing.name)}" for thing in found.resources]
        lines += [f"  follow it to its end with: s3bulkcopy attach {found.run_id}{flags}"] if until else []
        lines += [f"  remove everything with: s3bulkcopy teardown {found.run_id}{flags}"]
    return lines


def _age(created: str, now: datetime) -> str:
    try:
        began = datetime.fromisoformat(created)
    except ValueError:
        return "unknown"
    return duration_text(max(0.0, (now - began.astimezone(UTC)).total_seconds()))


# ---------------------------------------------------------------------------------------------- runs of the local engine


def local_run_as_json(found: LocalRun, flags: str) -> dict[str, Any]:
    """Give a run of the local engine as --output json has it."""
    facts, counts = found.facts, found.counts
    return {
        "run_id": facts.run_id,
        "engine": "local",
        "source": "" if found.job is None else str(found.job.source),
        "destination": "" if found.job is None else str(found.job.destination),
        "version": facts.version,
        "state": _local_state(found),
        "exit_code": facts.ended,
        "listed": counts.listed,
        "copied": counts.copied,
        "failed": counts.failed,
        "attach": _attach(found, flags) if _may_go_on(found) else None,
    }


def local_run_as_line(found: LocalRun) -> str:
    """Write how a run of the local engine is for people, as one line that changes when that does."""
    return f"{found.facts.run_id}  {_local_state(found)}  {_counted(found)}"


def local_run_as_text(found: LocalRun, flags: str, now: datetime) -> str:
    """Write a run of the local engine for people; `flags` are those of a command that goes on with it."""
    facts, job = found.facts, found.job
    code = "" if facts.ended is None else f" with code {facts.ended}"
    age = duration_text(max(0.0, now.timestamp() - begun(facts.run_id)))
    what = "" if job is None else f"  {safe(f'{job.source} -> {job.destination}')}"
    lines = [f"{facts.run_id}  {_local_state(found)}{code} (local engine, on this machine), {age} old{what}"]
    lines.append(f"  {_counted(found)}")
    if _may_go_on(found):
        lines.append(f"  go on with: {_attach(found, flags)}")
        lines.append(f"  or dismiss it with: s3bulkcopy teardown {facts.run_id}{flags}")
    elif facts.ended is not None and found.counts.failed:
        lines.append(f"  all that failed, and why: s3bulkcopy failures {facts.run_id}")
    return "\n".join(lines)


def _local_state(found: LocalRun) -> str:
    if found.facts.ended is not None:
        return "ended"
    return "running" if found.is_held else "stopped"


def _may_go_on(found: LocalRun) -> bool:
    return _local_state(found) == "stopped" and found.job is not None


def _attach(found: LocalRun, flags: str) -> str:
    return f"s3bulkcopy attach {found.facts.run_id}{flags}"


def _counted(found: LocalRun) -> str:
    return "  ".join(f"{name} {count_text(getattr(found.counts, name))}" for name in ("listed", "copied", "failed"))
