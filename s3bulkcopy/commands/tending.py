"""`status`, `failures`, `halt` and `teardown`: whatever looks at runs, or ends them from outside."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from s3bulkcopy import failures as failed_ones
from s3bulkcopy.aws import teardown as teardowns
from s3bulkcopy.aws import uploads
from s3bulkcopy.aws.discover import find_run, find_runs
from s3bulkcopy.aws.session import AwsSession, Lack, identity, lack
from s3bulkcopy.aws.stack import decode_tag, encode_tag
from s3bulkcopy.commands import accounts
from s3bulkcopy.commands.copying import all_failures
from s3bulkcopy.errors import CountsIncomplete, Halted, LeftBehind, NotAws, S3BulkCopyError, UsageError
from s3bulkcopy.journal import Journal, LocalRun, find_journal, last_retry, local_run, local_runs
from s3bulkcopy.status import (
    created_at,
    local_run_as_json,
    local_run_as_line,
    local_run_as_text,
    run_as_json,
    run_as_line,
    runs_as_text,
)
from s3bulkcopy.view import count_text, make_view, put_line, put_text, safe, write_line, write_text
from s3bulkcopy.worker.model import Location, split_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s3bulkcopy.aws.discover import FoundRun
    from s3bulkcopy.settings import AwsSettings, OutputSettings
    from s3bulkcopy.tally import RangeFailure
    from s3bulkcopy.view import View
    from s3bulkcopy.worker.model import Failure, Job

T = TypeVar("T")

#: How often `status --watch` looks again, in seconds.
WATCH_SECONDS = 2.0

#: How often who looks on without a terminal is told that nothing has changed, in seconds.
UNCHANGED_SECONDS = 60.0

#: How many objects a text names of each cause of failures.
_EXAMPLES = 10

#: What clears a terminal, and puts the cursor at its top.
_CLEAR = "\x1b[2J\x1b[H"


# --------------------------------------------------------------------------------------------------------------- status


def status(run_id: str | None, aws: AwsSettings, output: OutputSettings, *, watch: bool) -> int:
    """Show the runs of an account and region, and the local engine's on this machine; or one in detail.

    Of a run of the local engine whose journal is here, AWS is asked nothing.
    """
    if run_id is not None:
        accounts.check_run_id(run_id)
    here = _find_here(run_id)
    account = _account(aws, is_needed=not here) if run_id is None or not here else None
    flags = accounts.flags(accounts.words(aws, account[1])) if account is not None else ""
    looks_here = chain([here], iter(lambda: _find_here(run_id), None))  # each reads the journals of all runs
    with suppress(KeyboardInterrupt):
        for here, found in _again(lambda: (next(looks_here), _find(*account, run_id) if account else []), watch=watch):
            lines = _lines_here(here, output)
            if account is not None:
                lines += _lines_of(found, output, account[1], flags if run_id is not None else None)
            _show(lines, output, live=watch)
    return 0


def _find_here(run_id: str | None) -> list[LocalRun]:
    """Give the local engine's runs that have not ended, or the one that is named, if it is one of its."""
    if run_id is None:
        return local_runs()
    found = local_run(run_id)
    return [] if found is None else [found]


def _account(aws: AwsSettings, *, is_needed: bool) -> tuple[AwsSession, str] | None:
    """Give the session and the region to look in; None, with a warning, where there is no AWS, or none is needed or reached."""
    try:
        session = AwsSession(aws)
        with session.hasty():  # what is here need not wait long
            return session, accounts.look_in(session, aws)
    except S3BulkCopyError as error:
        if is_needed and not isinstance(error, NotAws):
            raise
        put_text(sys.stderr, f"warning: runs in AWS are not shown: {error.message}")
        return None


def _lines_here(here: Sequence[LocalRun], output: OutputSettings) -> list[str]:
    now, flags = datetime.now(UTC), [accounts.flags(dict(found.facts.aws)) for found in here]
    if output.json:
        return [json.dumps(local_run_as_json(*one)) for one in zip(here, flags, strict=True)]
    return [local_run_as_text(*one, now) for one in zip(here, flags, strict=True)]


def _lines_of(runs: Sequence[FoundRun], output: OutputSettings, region: str, flags: str | None) -> list[str]:
    """Write runs in an account; with `flags`, those of a command that reaches it, in detail."""
    if output.json:
        return [json.dumps(run_as_json(found)) for found in runs]
    return [runs_as_text(runs, region, datetime.now(UTC), flags=flags)]


def _show(lines: Sequence[str], output: OutputSettings, *, live: bool) -> None:
    clear = _CLEAR if live and sys.stdout.isatty() and not output.json else ""
    if lines:
        write = write_line if output.json else write_text
        write(sys.stdout, clear + "\n".join(lines))


def look_on(run_id: str, aws: AwsSettings, output: OutputSettings, why: str) -> int:
    """Follow a run that another process, or another machine, counts: until it is gone, or Ctrl-C.

    What became of it is not known here, which the exit code says.
    """
    put_text(sys.stderr, why)
    if local_run(run_id) is not None:
        return _look_on_here(run_id, output)
    session = AwsSession(aws)
    region = accounts.look_in(session, aws)
    runs = _find(session, region, run_id)
    flags = accounts.flags(accounts.words(aws, region))
    is_halted, said, said_at = False, None, 0.0
    while runs:
        is_halted = bool(runs[0].halted)
        line = _line(runs[0], output)
        if said is None or (sys.stdout.isatty() and not output.json):
            _show(_lines_of(runs, output, region, flags), output, live=True)
            said, said_at = line, time.monotonic()
        elif line != said or time.monotonic() - said_at >= UNCHANGED_SECONDS:
            write_line(sys.stdout, line)
            said, said_at = line, time.monotonic()
        time.sleep(WATCH_SECONDS)
        runs = _look(lambda: [found] if (found := find_run(session, region, run_id)) is not None else [], runs)
    if is_halted:
        put_text(sys.stderr, f"run {run_id} was halted, and is gone")
        return Halted.exit_code
    put_text(sys.stderr, f"run {run_id} is gone: it ended, or was torn down; how, whoever followed it knows")
    return CountsIncomplete.exit_code


def _look_on_here(run_id: str, output: OutputSettings) -> int:
    """Follow a run that another process on this machine carries on until that has ended; gives the run's code, if any."""
    said = ""
    while (found := local_run(run_id)) is not None and found.is_held:
        line = json.dumps(local_run_as_json(found, "")) if output.json else local_run_as_line(found)
        if line != said:
            write_line(sys.stdout, said := line)
        time.sleep(WATCH_SECONDS)
    _show(_lines_here(_find_here(run_id), output), output, live=False)
    code = found.facts.ended if found is not None else None
    return CountsIncomplete.exit_code if code is None else code


def _line(found: FoundRun, output: OutputSettings) -> str:
    return json.dumps(run_as_json(found)) if output.json else run_as_line(found)


def _find(session: AwsSession, region: str, run_id: str | None) -> list[FoundRun]:
    if run_id is None:
        return find_runs(session, region)
    found = find_run(session, region, run_id)
    if found is None:
        raise UsageError(
            f"there is no run {run_id} in {region}", hint="`s3bulkcopy status` lists the runs of a region; see --region"
        )
    return [found]


def _again(look: Callable[[], T], *, watch: bool) -> Iterator[T]:
    seen = look()
    yield seen
    while watch:
        time.sleep(WATCH_SECONDS)
        seen = _look(look, seen)
        yield seen


def _look(look: Callable[[], T], last: T) -> T:
    """Look again; give what was seen last where nobody answers for now."""
    try:
        return look()
    except S3BulkCopyError as error:
        if lack(error) is not Lack.NETWORK:
            raise
        put_line(sys.stderr, f"warning: {error.message}; looking again")
        return last


# ------------------------------------------------------------------------------------------------------------- failures


def failures(run_id: str, form: Literal["text", "json", "csv"]) -> int:
    """Show what failed of a run, and what to do about it; another process may be counting it meanwhile."""
    accounts.check_run_id(run_id)
    last = last_retry(run_id)
    if last != run_id:
        put_text(sys.stderr, f"what had failed of run {run_id} was retried by run {last}: this is what failed again")
    with Journal.resume(find_journal(last), to_write=False) as journal, journal.steady():
        has_any = False
        write = write_text if form == "text" else write_line
        for line in _FORMS[form](all_failures(journal)):
            write(sys.stdout, line)
            has_any = True
        if form == "text":
            _say_how_complete(journal, has_any=has_any)
    return 0


def _say_how_complete(journal: Journal, *, has_any: bool) -> None:
    facts = journal.facts
    if not has_any:
        put_text(sys.stderr, f"nothing failed in run {facts.run_id}{'' if facts.ended is not None else ' so far'}")
    elif facts.ended is None:
        put_text(sys.stderr, f"run {facts.run_id} has not ended: more may follow")
    else:
        flags = accounts.flags(dict(facts.aws))
        put_text(sys.stderr, f"copy what failed with: s3bulkcopy retry {facts.run_id}{flags}")


def _as_text(failed: Iterator[Failure | RangeFailure]) -> Iterator[str]:
    """Give each cause once, with how many failed of it and the first of them."""
    for cause in failed_ones.causes(failed, _EXAMPLES):
        yield safe(f"{count_text(cause.number)} x {cause.text}")
        yield from (safe(f"  {what}") for what in cause.examples)
        if (more := cause.number - len(cause.examples)) > 0:
            yield f"  and {count_text(more)} more (--output json or csv has all)"


def _as_json(failed: Iterator[Failure | RangeFailure]) -> Iterator[str]:
    return (json.dumps(failed_ones.failure_object(one)) for one in failed)


_COLUMNS = ("key", "size", "code", "cause", "advice", "after", "until")


def _as_csv(failed: Iterator[Failure | RangeFailure]) -> Iterator[str]:
    yield ",".join(_COLUMNS)
    for one in failed:
        row: dict[str, Any] = failed_ones.failure_object(one)
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([row.get(name) for name in _COLUMNS])
        yield text.getvalue()


_FORMS = {"text": _as_text, "json": _as_json, "csv": _as_csv}


# ----------------------------------------------------------------------------------------------------------------- halt


def halt(run_id: str, aws: AwsSettings, output: OutputSettings) -> int:
    """Stop a run at once: no task is begun any more, and its queues are emptied. Whoever watches it ends and tears it down."""
    accounts.check_run_id(run_id)
    here = local_run(run_id)
    if here is not None and here.is_held:
        raise _at_work(run_id)
    if here is not None:
        hint = f"`s3bulkcopy status {run_id}` shows it"
        raise UsageError(f"run {run_id} worked on this machine, and is not at work any more", hint=hint)
    session = AwsSession(aws)
    region = accounts.look_in(session, aws)
    _find(session, region, run_id)
    view = _plain_view(output)
    teardowns.halt(session, region, run_id, say=view.step, sleep=time.sleep)
    left = teardowns.empty(session, region, run_id, say=view.step, sleep=time.sleep)
    for one in _sweep(session, region, run_id, view):
        view.warning(f"left behind: {one}")
    again = f"s3bulkcopy teardown {run_id}{accounts.flags(accounts.words(aws, region))}"
    if output.json:
        put_line(sys.stdout, json.dumps({"run_id": run_id, "halted": True, "messages_left": left}))
    else:
        put_text(sys.stdout, f"{run_id}: halted")
    if left:
        view.warning(f"about {left:,} messages are still in its queues; nobody is given them any more")
    view.note(f"whoever watches it tears it down; where nobody does: {again}")
    return 0


def _at_work(run_id: str) -> UsageError:
    return UsageError(
        f"run {run_id} works on this machine, and nothing of it is in AWS",
        hint="Ctrl-C in its terminal stops it, or SIGTERM; `s3bulkcopy attach` goes on with it",
    )


# ------------------------------------------------------------------------------------------------------------- teardown


@dataclass(frozen=True, slots=True)
class Everything:
    """Which runs are meant by all."""

    #: Only those that are older, in seconds.
    older_than: float | None = None
    #: Those of other people, too.
    of_everyone: bool = False


def teardown(run_ids: tuple[str, ...], everything: Everything | None, aws: AwsSettings, output: OutputSettings) -> int:
    """Stop runs and remove what they left: those that are named, or all that are meant."""
    for name in run_ids:
        accounts.check_run_id(name)
    here = {name: found for name in run_ids if (found := local_run(name)) is not None}
    if at_work := [name for name, found in here.items() if found.is_held]:
        raise _at_work(at_work[0])
    view = _plain_view(output)
    left = [line for name in here for line in _dismiss(name, aws, output, view)]
    if everything is not None or len(here) < len(run_ids):
        others = [name for name in run_ids if name not in here]
        left += _tear_down_in_account(others, everything, aws, output, view)
    return LeftBehind.exit_code if left else 0


def _tear_down_in_account(
    names: Sequence[str], everything: Everything | None, aws: AwsSettings, output: OutputSettings, view: View
) -> list[str]:
    session = AwsSession(aws)
    region = accounts.look_in(session, aws)
    if everything is not None:
        names = [*_meant(session, region, everything, view)]
    if not names and not output.json:
        put_text(sys.stdout, f"no runs in {region}: nothing to remove" if everything == Everything() else "nothing to remove")
    return [line for name in names for line in _tear_down(session, region, name, output, view)]


def _dismiss(run_id: str, aws: AwsSettings, output: OutputSettings, view: View) -> list[str]:
    """Let go of a run of the local engine, and abort the uploads that it has left, where it can be; gives what is left.

    Its journal stays for `failures` and `retry`, and says that it was halted; nothing goes on with it.
    """
    with Journal.resume(find_journal(run_id)) as journal:
        left = [str(one) for one in _sweep_here(journal, aws, view)] if journal.facts.has_roots else []
        if journal.facts.ended is None:
            journal.note(replace(journal.facts, ended=Halted.exit_code))
    if output.json:
        put_line(sys.stdout, json.dumps({"run_id": run_id, "removed": [], "left": left}))
        return left
    put_text(sys.stdout, f"{run_id}: dismissed; what it has copied stays")
    for line in left:
        put_text(sys.stderr, f"  left    {line}")
    return left


def _sweep_here(journal: Journal, aws: AwsSettings, view: View) -> tuple[teardowns.Left, ...]:
    job = journal.job()
    try:
        session = AwsSession(accounts.settings(aws, dict(journal.facts.aws)))
    except UsageError as error:
        view.warning(f"multipart uploads are not looked for: {error.message}")
        return ()
    with session.hasty():  # the store may be gone for good
        return _said(uploads.sweep(session, job.destination, job.run_id, job, is_own_role=False), view)


def _meant(session: AwsSession, region: str, everything: Everything, view: View) -> Iterator[str]:
    """Give the ids of the runs that are meant, and name the others."""
    me, now = identity(session).arn, datetime.now(UTC)
    for found in find_runs(session, region):
        why = why_left(found, everything, me, now)
        if why:
            view.note(f"{found.run_id}: left alone, {why}")
        else:
            yield found.run_id


def why_left(found: FoundRun, everything: Everything, me: str, now: datetime) -> str:
    """Say why a run is not meant by all; nothing where it is. `me` is the caller's ARN."""
    if not everything.of_everyone and found.owner != encode_tag(me):
        whose = f"it is {decode_tag(found.owner)}'s" if found.owner else "it does not say whose it is"
        return f"as {whose} (name it to remove it, or give --everyone)"
    if everything.older_than is not None:
        began = created_at(found)
        if began is None:
            return "as its age is not known (name it to remove it)"
        if (now - began).total_seconds() < everything.older_than:
            return "as it is younger than that"
    return ""


def _tear_down(session: AwsSession, region: str, run_id: str, output: OutputSettings, view: View) -> list[str]:
    try:
        teardowns.halt(session, region, run_id, say=view.step, sleep=time.sleep)
    except S3BulkCopyError as error:
        view.warning(f"could not stop the workers first: {error.message}")
    swept = _sweep(session, region, run_id, view)
    done = teardowns.teardown(session, region, run_id, say=view.step, sleep=time.sleep)
    left = [str(one) for one in (*swept, *done.left)]
    if output.json:
        put_line(sys.stdout, json.dumps({"run_id": run_id, "removed": list(done.removed), "left": left}))
        return left
    removed = f"removed {len(done.removed)} resources" if done.removed else "nothing was there"
    put_text(sys.stdout, f"{run_id}: {removed}")
    if not output.quiet:
        for name in done.removed:
            put_text(sys.stdout, f"  removed {name}")
    for line in left:
        put_text(sys.stderr, f"  left    {line}")
    return left


def _sweep(session: AwsSession, region: str, run_id: str, view: View) -> tuple[teardowns.Left, ...]:
    """Abort the multipart uploads of a run whose workers were stopped; gives what is left of them.

    Where its journal is on this machine, also those of a store that does not tell who has begun an upload.
    """
    with suppress(S3BulkCopyError):  # what may not be looked at is said by what looks for all else
        job = _job_known_here(run_id)
        place = job.destination if job is not None else _destination_of(find_run(session, region, run_id), region)
        if place.bucket:
            return _said(uploads.sweep(session, place, run_id, job), view)
    return ()


def _said(swept: uploads.Swept, view: View) -> tuple[teardowns.Left, ...]:
    """Say what became of uploads, and give what is left."""
    swept.say_aborted(view.note)
    if swept.unseen is not None:
        view.note(f"not looked for: {swept.unseen}")
    return swept.left


def _job_known_here(run_id: str) -> Job | None:
    with suppress(S3BulkCopyError), Journal.resume(find_journal(run_id), to_write=False) as journal:
        return journal.job()
    return None


def _destination_of(found: FoundRun | None, region: str) -> Location:
    """Give where a run copies to, as its tags tell it; of a long prefix that may be the beginning."""
    bucket, prefix = split_place("" if found is None else found.destination)
    return Location(bucket, prefix.removesuffix("..."), region, "")


def _plain_view(output: OutputSettings) -> View:
    return make_view(output, stdout=sys.stdout, stderr=sys.stderr, is_terminal=False, clock=time.monotonic)
