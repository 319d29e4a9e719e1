"""`attach` and `retry`: what comes back to a run that an earlier command began."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from s3bulkcopy import __version__, failures
from s3bulkcopy import run as runs
from s3bulkcopy.aws import dead_letters, teardown
from s3bulkcopy.aws.discover import find_run, queue_urls
from s3bulkcopy.aws.preflight import Found, Preflight
from s3bulkcopy.aws.session import AwsSession, identity
from s3bulkcopy.aws.stack import Names, begun, new_run_id
from s3bulkcopy.commands import accounts
from s3bulkcopy.commands.copying import (
    Work,
    all_failures,
    begin_journal,
    facts_of,
    has_failures,
    look_at,
    make_engine,
    nothing_to_copy,
    open_view,
    portable,
    show_plan,
    ways_on,
)
from s3bulkcopy.commands.copying import (
    again as run_again,
)
from s3bulkcopy.errors import (
    EXIT_CODES,
    Detached,
    JournalDamaged,
    JournalHeld,
    JournalMissing,
    JournalUnusable,
    S3BulkCopyError,
    UsageError,
)
from s3bulkcopy.journal import Facts, Journal, find_journal, last_retry, written_at
from s3bulkcopy.settings import LocalSettings, StackSettings
from s3bulkcopy.tally import RangeFailure
from s3bulkcopy.worker.model import CopyTask, Failure, Item, Job, Location, encode_task, split_place
from s3bulkcopy.worker.s3 import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from s3bulkcopy.aws.discover import FoundRun
    from s3bulkcopy.commands.copying import Settings
    from s3bulkcopy.engines import Engine
    from s3bulkcopy.interrupts import Interrupts
    from s3bulkcopy.run import Result
    from s3bulkcopy.settings import AwsSettings, CopySettings, LifeSettings, OutputSettings
    from s3bulkcopy.view import View
    from s3bulkcopy.worker.model import Range

S = TypeVar("S", StackSettings, LocalSettings)


# --------------------------------------------------------------------------------------------------------------- attach


def attach(
    run_id: str,
    aws: AwsSettings,
    output: OutputSettings,
    life: LifeSettings,
    *,
    take_over: bool,
    idle_seconds: float,
    look_on: Callable[[str], int],
) -> int:
    """Follow a run that goes on by itself to its end, as the command that began it would have.

    Where this machine has no journal of it, or another process holds it, `look_on(why)` is called, unless to take over.
    """
    accounts.check_run_id(run_id)
    view, path, wrote_at = open_view(output), find_journal(run_id), 0.0
    with suppress(OSError):  # before it is opened, which may write
        wrote_at = written_at(path)
    try:
        journal = _readable(path)
    except JournalMissing as error:
        if not take_over:
            return look_on(f"{error.message}: looking on. `--take-over` counts what the run's reports still hold, and ends it")
        journal = None
    except JournalHeld as error:
        if take_over:
            raise
        return look_on(f"{error.message}: looking on")
    except JournalDamaged as error:
        if not take_over:
            raise
        view.warning(f"{error.message}: it is set aside as {_set_aside(path)}")
        journal = None
    with view:
        if journal is None:
            return _take_over(run_id, aws, view, life, path, idle_seconds)
        with journal:
            if journal.facts.ended is None:
                took = {"seconds": seconds_taken(journal.facts, wrote_at), "since": time.time()}
                journal.note(replace(journal.facts, settings={**journal.facts.settings, **took}))
            return _follow(journal, aws, view, life, idle_seconds)


def seconds_taken(facts: Facts, wrote_at: float) -> float:
    """Give how long the commands before this one carried a run on: the last one, if it was killed, until its last word.

    What a command takes down at its end is `seconds` and not `since`, which is when one that attached began.
    """
    before = facts.settings.get("seconds")
    since = facts.settings.get("since", begun(facts.run_id) if before is None else wrote_at)
    return float(before or 0.0) + max(0.0, wrote_at - float(since))


def _readable(path: Path) -> Journal:
    """Open a journal that can be read to its end."""
    journal = Journal.resume(path)
    try:
        journal.replay()
        next(journal.roots(), None)
    except BaseException:
        journal.__exit__()
        raise
    return journal


def _set_aside(path: Path) -> Path:
    """Let a journal that is of no use make room for another one."""
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    return aside


def _follow(journal: Journal, aws: AwsSettings, view: View, life: LifeSettings, idle_seconds: float) -> int:
    facts = journal.facts
    if facts.ended is not None:
        return _show_end(journal, facts.ended, view, life)
    if facts.engine == "local":
        return _go_on_here(journal, aws, view, life)
    job = journal.job()
    if not facts.has_roots:
        view.warning(f"run {facts.run_id} was taken over: its counts will be incomplete")
    return _carry_on(job, journal, aws, view, life, idle_seconds=idle_seconds)


def _go_on_here(journal: Journal, aws: AwsSettings, view: View, life: LifeSettings) -> int:
    """Go on with a run of the local engine, whose workers ended with their command: with the tasks that it kept."""
    facts = journal.facts
    if not facts.has_roots:
        raise UsageError(
            f"run {facts.run_id} had not begun to copy when it ended", hint="nothing of it is left: run the command again"
        )
    job, settings = journal.job(), _known(LocalSettings, facts.settings.get("local", {}))
    where = accounts.settings(aws, dict(facts.aws))
    _show_following("going on with", job, view)
    session, found = AwsSession(where), Found(job, Page((), truncated=False))
    return _work(job, journal, view, settings, life, partial(make_engine, found, settings, session, view, journal), session)


def _show_following(doing: str, job: Job, view: View) -> None:
    plan = [f"run {job.run_id}: {doing} the copy of {job.source} to {job.destination}"]
    view.plan(job.run_id, plan, source=str(job.source), destination=str(job.destination))


def _carry_on(job: Job, journal: Journal, aws: AwsSettings, view: View, life: LifeSettings, *, idle_seconds: float) -> int:
    facts = journal.facts
    settings = _stack_settings(facts.settings.get("lambda", {}))
    where = accounts.settings(aws, dict(facts.aws))
    _show_following("following", job, view)
    session = AwsSession(where)
    who, account = identity(session), facts.settings.get("account")
    if account is not None and who.account != account:
        raise UsageError(
            f"run {job.run_id} is in account {account}, and these credentials are of {who.account}", hint="see --profile"
        )
    found = Preflight(job, Page((), truncated=False), identity=who, free_concurrency=None)
    make = partial(make_engine, found, settings, session, view, journal, adopts=True)
    return _work(job, journal, view, settings, life, make, session, idle_seconds=idle_seconds)


def _work(
    job: Job,
    journal: Journal,
    view: View,
    settings: Settings,
    life: LifeSettings,
    make: Callable[[Interrupts], Engine],
    session: AwsSession,
    *,
    idle_seconds: float = runs.IDLE_SECONDS,
) -> int:
    """Carry a run to its end that another command began."""
    facts = journal.facts
    most = facts.settings.get("max_failures")
    before = float(facts.settings.get("seconds", 0.0))
    work = Work(
        job, journal, view, settings, life, most, make, idle_seconds=idle_seconds, is_attached=True, seconds_before=before
    )
    work.skips_archived = bool(facts.settings.get("skip_archived"))
    result = work.carry(lambda course: runs.resume(job, course))
    if (whole := facts.settings.get("retries_whole")) and _is_told(result):
        with suppress(JournalUnusable), Journal.resume(find_journal(str(whole))) as old:
            _note_retried(old, job.run_id)
    if (retried := facts.settings.get("retries")) is not None and facts.settings.get("retries_all"):
        _tend_retried(str(retried), job, session, journal, result, view)
    return work.close(result)


def _stack_settings(data: dict[str, Any]) -> StackSettings:
    tuples = {
        "tags": tuple((name, value) for name, value in data.get("tags", ())),
        "source_kms_keys": tuple(data.get("source_kms_keys", ())),
    }
    return _known(StackSettings, {**data, **tuples})


def _known(kind: type[S], data: dict[str, Any]) -> S:
    """Read the settings that a run began with; what another version calls otherwise is as by default."""
    known = {*kind.__annotations__}
    return kind(**{name: value for name, value in data.items() if name in known})


def _show_end(journal: Journal, code: int, view: View, life: LifeSettings) -> int:
    """Show how a run ended that has ended."""
    facts = journal.facts
    view.note(f"run {facts.run_id} has ended, with code {code}: {_meaning(code)}")
    last = last_retry(facts.run_id)
    if last != facts.run_id:
        with Journal.resume(find_journal(last), to_write=False) as retried, retried.steady():
            end = retried.facts.ended if retried.facts.ended is not None else code
            view.note(f"what had failed of it was copied again by run {last}, which ended with code {end}: {_meaning(end)}")
            return _show_result(retried, end, view, life)
    return _show_result(journal, code, view, life)


def _meaning(code: int) -> str:
    return EXIT_CODES.get(code, "unexpected").split(";")[0]


def _show_result(journal: Journal, code: int, view: View, life: LifeSettings) -> int:
    facts = journal.facts
    if facts.has_roots:
        job, tally = journal.job(), journal.replay()
        if life.failures is not None:
            failures.write(
                life.failures, failures.Header(job.run_id, facts.engine, job, portable(facts)), all_failures(journal)
            )
        result = runs.result_of(job, tally, journal, facts.engine)
        result = replace(result, seconds=float(facts.settings.get("seconds", 0.0)))
        view.summary(result, ways_on(journal, job) if has_failures(result.snapshot) else ())
    return code


def _take_over(run_id: str, aws: AwsSettings, view: View, life: LifeSettings, path: Path, idle_seconds: float) -> int:
    """Count what a run's reports still hold, and end it: all that can be done without its journal."""
    session = AwsSession(aws)
    region = accounts.look_in(session, aws)
    found = find_run(session, region, run_id)
    if found is None:
        raise UsageError(
            f"there is no run {run_id} in {region}", hint="`s3bulkcopy status` lists the runs of a region; see --region"
        )
    job = _job_of(found, region)
    known = {"job": encode_task(CopyTask(run_id, job, ()))}
    where = tuple(accounts.words(aws, region).items())
    facts = Facts(run_id, "lambda", version=__version__, aws=where, settings=known, submitted=True, watched=time.time())
    path.parent.mkdir(parents=True, exist_ok=True)
    with Journal.create(path, facts) as journal:
        view.warning(f"taking over run {run_id}: what was reported before is not known here, so the counts will be incomplete")
        return _carry_on(job, journal, aws, view, life, idle_seconds=idle_seconds)


def _job_of(found: FoundRun, region: str) -> Job:
    """Give the job of a run as its tags tell it; without buckets where that is not enough to do it again."""
    source, destination = (_place_of(text, region) for text in (found.source, found.destination))
    if found.has_properties:
        source = source._replace(bucket="")
    return Job(found.run_id, source, destination, overwrite=found.overwrite)


def _place_of(text: str, region: str) -> Location:
    bucket, prefix = split_place(text)
    is_whole = text.startswith(("s3://", "arn:")) and not text.endswith("...")
    return Location(bucket if is_whole else "", prefix, region, "")


# ---------------------------------------------------------------------------------------------------------------- retry


@dataclass(frozen=True, slots=True)
class Retry:
    """What is to be done again, and how it was done before."""

    header: failures.Header
    failed: Callable[[], Iterator[Failure | RangeFailure]]
    #: Whether it is all that had failed; a file may have been cut.
    has_all: bool
    #: The run that was named: others may have retried it in between, and its are the dead letters.
    named: str = ""
    #: Takes down by which run it was done again.
    note: Callable[[str], None] = lambda _: None
    #: What is known of a run that was stopped before its end; nothing of any other.
    stopped: str = ""

    @property
    def remnant(self) -> runs.Remnant:
        """Give it as the run takes it: what is there now is copied, so that no ETag is asked for."""

        def items() -> Iterator[Item]:
            return (Item(one.key, one.size, "") for one in self.failed() if isinstance(one, Failure))

        def ranges() -> Iterator[Range]:
            return (one.range for one in self.failed() if isinstance(one, RangeFailure))

        return runs.Remnant(items, ranges)


@contextmanager
def open_retry(run_id: str | None, file: Path | None) -> Iterator[Retry]:
    """Open what failed of a run: its journal, held meanwhile, or a file; raises UsageError where there is neither."""
    if file is not None:
        header = failures.read_header(file)
        yield Retry(header, partial(failures.read, file), has_all=False)
        return
    if run_id is None:
        raise UsageError("name the run of which to retry what failed, or give --failures FILE")
    accounts.check_run_id(run_id)
    named, run_id = run_id, last_retry(run_id)
    try:
        opened = _readable(find_journal(run_id))
    except JournalHeld as error:
        raise UsageError(f"run {run_id} is being counted by another process", "retry it when it has ended") from error
    with opened as journal:
        if journal.facts.ended is None:
            hint = f"`s3bulkcopy attach {run_id}` follows it to its end"
            if journal.facts.engine == "local":
                hint += f"; once `s3bulkcopy teardown {run_id}` has dismissed it, what had failed can be retried by itself"
            raise UsageError(f"run {run_id} has not ended", hint=hint)
        if not journal.job().source.bucket:
            raise UsageError(f"run {run_id} was taken over, and its tags do not tell all of what it copied where, and how")
        yield Retry(
            failures.Header(run_id, journal.facts.engine, journal.job(), journal.facts.aws),
            partial(all_failures, journal),
            has_all=True,
            named=named,
            note=partial(_note_retried, journal),
            stopped=_how_it_was_stopped(journal),
        )


def _note_retried(journal: Journal, by: str) -> None:
    journal.note(replace(journal.facts, settings={**journal.facts.settings, "retried_by": by}))


def _is_told(result: Result | Detached) -> bool:
    """Tell whether it is known what became of everything in a run."""
    return not isinstance(result, Detached) and result.snapshot.complete


def _how_it_was_stopped(journal: Journal) -> str:
    """Say what is known of a run that ended before all of it was done; nothing of any other."""
    snapshot, code = journal.replay().snapshot(), journal.facts.ended or 0
    if snapshot.complete:
        return ""
    seen = snapshot.seen
    done = f"of {seen.listed:,} objects that had been listed {seen.copied:,} were known to be copied"
    return f"run {journal.facts.run_id} was stopped before its end (code {code}: {_meaning(code)}): {done}"


def retry(
    again: Retry,
    copy: CopySettings,
    settings: Settings,
    aws: AwsSettings,
    output: OutputSettings,
    life: LifeSettings,
) -> int:
    """Copy what failed of another run, in a run of its own; `copy` has its rules."""
    old, view, run_id = again.header, open_view(output), new_run_id(time.time(), os.urandom(3).hex())
    objects = ranges = 0
    for one in again.failed():
        objects, ranges = objects + isinstance(one, Failure), ranges + isinstance(one, RangeFailure)
    with view:
        session = AwsSession(aws)
        found = look_at(session, copy, settings, aws, run_id)
        job = old.job._replace(
            run_id=run_id,
            source=found.job.source,
            destination=found.job.destination,
            overwrite=copy.overwrite,
            batch_keys=copy.batch_keys,
            policy=found.job.policy,
            multipart_bytes=copy.multipart_bytes,
            part_bytes=copy.part_bytes,
        )
        found = replace(found, job=job)
        facts = facts_of(found, copy, settings, aws)
        if again.stopped:
            rest = run_again(old.job)
            if not objects and not ranges:
                raise UsageError(f"{again.stopped}, and nothing had failed until then", rest)
            view.warning(f"{again.stopped}; only what had failed until then is retried. To copy the rest, {rest}")
        if not objects and not ranges:
            view.note(f"nothing failed in run {old.run_id}: there is nothing to retry")
            return nothing_to_copy(job, settings, view, life, facts)
        is_kept = old.engine == "lambda"
        named = again.named or old.run_id
        of = {
            "retries": named,
            "retries_all": is_kept and again.has_all,
            "retries_whole": old.run_id if again.has_all else None,
        }
        facts = replace(facts, settings={**facts.settings, **of})
        show_plan(found, copy.overwrite, settings, view)
        for warning in found.warnings:
            view.warning(warning)
        if found.uncut and ranges:
            view.warning(f"{found.job.source} is listed page after page, all of it: {found.uncut}")
        view.note(f"only what failed of run {old.run_id}: {objects:,} objects and {ranges:,} ranges")
        with begin_journal(facts, view, is_passing=False) as journal:
            make = partial(make_engine, found, settings, session, view, journal)
            work = Work(job, journal, view, settings, life, copy.max_failures, make)
            result = work.carry(
                lambda course: runs.retry(job, again.remnant, course, is_cut=not found.uncut, detached=life.detach)
            )
            if _is_told(result):
                again.note(run_id)
            if is_kept:
                retried = None if again.has_all else frozenset(item.key for item in again.remnant.items())
                _tend_retried(named, job, session, journal, result, view, retried)
        return work.close(result)


def _tend_retried(
    old: str,
    job: Job,
    session: AwsSession,
    journal: Journal,
    result: Result | Detached,
    view: View,
    retried: frozenset[str] | None = None,
) -> None:
    """Delete the dead letters of what was retried with success, and what was kept of the old run if nothing failed again.

    `retried` has the keys that were, where that is not known to be all that had failed.
    """
    region, snapshot = job.destination.region, None if isinstance(result, Detached) else result.snapshot
    if snapshot is None:
        return
    try:
        if not (urls := queue_urls(session, region, Names(old))):
            return
        has_failed = not snapshot.complete or bool(snapshot.counts.failed or snapshot.ranges_failed)
        if has_failed or retried is not None:
            tally = journal.replay()
            failed = frozenset(one.key for one in journal.failures(tally))
            ranges = tuple(one.range for one in journal.failed_ranges(tally))
            number, left = dead_letters.forget(
                session, region, urls, old, failed, ranges, retried, say=view.step, sleep=time.sleep
            )
            view.note(f"deleted {number:,} dead letters of run {old}: what they asked for is done")
            if has_failed or left:
                return
        view.step(f"nothing of run {old} is left to retry: removing what was kept of it")
        for one in teardown.teardown(session, region, old, say=view.step, sleep=time.sleep).left:
            view.warning(f"left behind: {one.name} ({one.why}): {one.command}")
    except S3BulkCopyError as error:
        view.warning(f"could not tend the dead letters of run {old}: {error.message}")
