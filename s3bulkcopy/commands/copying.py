"""`run`, and what all commands that carry a run to its end have in common."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from s3bulkcopy import __version__, failures
from s3bulkcopy import run as runs
from s3bulkcopy.aws.endpoint import check_scheme
from s3bulkcopy.aws.objects import Files
from s3bulkcopy.aws.preflight import Preflight, check_overlap, check_quota, look, preflight, what_lets_in
from s3bulkcopy.aws.session import AwsSession
from s3bulkcopy.aws.stack import RETENTION_SECONDS, begun, new_run_id
from s3bulkcopy.commands import accounts
from s3bulkcopy.commands.accounts import flags
from s3bulkcopy.costs import is_in_aws, planned
from s3bulkcopy.errors import (
    CountsIncomplete,
    Detached,
    HungUp,
    Interrupted,
    JournalUnusable,
    LeftBehind,
    NotPermitted,
    ObjectsFailed,
    S3BulkCopyError,
    cause_of,
)
from s3bulkcopy.interrupts import Interrupts
from s3bulkcopy.journal import Facts, Journal, forget_old, journal_path, makeshift_path
from s3bulkcopy.keylists import KeyList
from s3bulkcopy.settings import REQUEST_DOLLARS, LifeSettings, LocalSettings, StackSettings
from s3bulkcopy.status import when
from s3bulkcopy.tally import RangeFailure, Tally
from s3bulkcopy.view import cause_lines, make_view
from s3bulkcopy.worker.model import Counts
from s3bulkcopy.worker.properties import described
from s3bulkcopy.worker.sorting import Sorter, large_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3bulkcopy.aws.preflight import Found
    from s3bulkcopy.aws.uploads import Swept
    from s3bulkcopy.engines import Engine
    from s3bulkcopy.run import Course, Result
    from s3bulkcopy.settings import AwsSettings, CopySettings, OutputSettings
    from s3bulkcopy.tally import Snapshot
    from s3bulkcopy.view import View
    from s3bulkcopy.worker.model import Failure, Job

Settings = StackSettings | LocalSettings


# ------------------------------------------------------------------------------------------------------------------ run


def run(
    copy: CopySettings,
    settings: Settings,
    aws: AwsSettings,
    output: OutputSettings,
    life: LifeSettings | None = None,
    *,
    last_words: Callable[[], str] | None = None,
) -> int:
    """Run; `last_words` are said in place of the command that cleans up where a second Ctrl-C leaves at once.

    Who gives them has a cloud that ends with the command, and a journal that does, too.
    """
    run_id, life = new_run_id(time.time(), os.urandom(3).hex()), life or LifeSettings()
    view = open_view(output)
    check_overlap(copy.source, copy.destination)
    with view:
        view.step("checking credentials and buckets")
        session = AwsSession(aws)
        found = look_at(session, copy, settings, aws, run_id)
        show_plan(found, copy.overwrite, settings, view)
        for warning in found.warnings:
            view.warning(warning)
        if found.uncut:
            view.warning(f"{found.job.source} is listed page after page, not in ranges of keys: {found.uncut}")
        facts = facts_of(found, copy, settings, aws)
        named = None
        if copy.selection.keys_from is not None:
            view.step(f"reading {copy.selection.keys_from}")
            named = KeyList(copy.selection.keys_from, found.job, copy.selection.limit, Files(session))
            counts = count_named(named, found.job)
            if not counts.listed:
                view.warning(why_nothing(found.job, counts, copy.selection.keys_from))
            if copy.dry or not counts.listed:
                return nothing_to_copy(found.job, settings, view, life, facts, counts)
        elif not found.first_page.items:
            view.warning(why_nothing(found.job, Counts()))
            return nothing_to_copy(found.job, settings, view, life, facts)
        with begin_journal(facts, view, is_passing=copy.dry or last_words is not None) as journal:
            make = partial(make_engine, found, settings, session, view, journal)
            work = Work(found.job, journal, view, settings, life, copy.max_failures, make, last_words)
            work.skips_archived = copy.selection.skip_archived
            go = partial(
                runs.run, found.job, found.first_page, is_cut=not found.uncut, detached=life.detach, limit=copy.selection.limit
            )
            if named is not None:
                remnant = runs.Remnant(named.items, tuple, lambda: named.filtered)
                go = partial(runs.retry, found.job, remnant, detached=life.detach)
            result = work.carry(go)
        return work.close(result)


def count_named(named: KeyList, job: Job) -> Counts:
    """Read all that a file names, so that what is wrong in it is known before anything is made; raises UsageError."""
    number = size = 0
    large = Counts()
    for item in named.items():
        number, size = number + 1, size + item.size
        if job.dry and item.size >= job.multipart_bytes:
            large += large_of(job, (item,))
    return large + Counts(listed=number, listed_bytes=size, filtered=named.filtered)


def look_at(session: AwsSession, copy: CopySettings, settings: Settings, aws: AwsSettings, run_id: str) -> Found:
    """Look at what an engine needs to know, before anything is made."""
    check_scheme(aws.endpoint_url)
    if isinstance(settings, LocalSettings):
        return look(session, copy, run_id)
    found = preflight(session, aws, copy, run_id, settings)
    check_quota(found, settings)
    return found


def open_view(output: OutputSettings) -> View:
    return make_view(output, stdout=sys.stdout, stderr=sys.stderr, is_terminal=sys.stderr.isatty(), clock=time.monotonic)


def show_plan(found: Found, overwrite: bool, settings: Settings, view: View) -> None:  # noqa: FBT001 - a rule
    existing = "existing objects are overwritten" if overwrite else "existing objects are left alone"
    job = found.job
    here, there = job.source.region, job.destination.region
    where = f" ({here} to {there})" if here != there else ""
    price = ""
    if is_in_aws(job.destination):
        where = where or f" ({here})"
        price = f"; a million COPY requests cost ${REQUEST_DOLLARS * 1_000_000:.2f}"
    line = f"run {job.run_id}: copying {job.source} to {job.destination}{where}, current versions only; {existing}{price}"
    if job.dry:
        line = f"dry run {job.run_id}: listing {job.source}; nothing is made, and nothing is copied to {job.destination}"
    lines = [line, _workers(found, settings)]
    if said := described(job.policy):
        lines.append(f"other than S3 by itself: {said}")
    view.plan(job.run_id, lines, source=str(job.source), destination=str(job.destination))


def _workers(found: Found, settings: Settings) -> str:
    if isinstance(settings, LocalSettings) or not isinstance(found, Preflight):
        processes = settings.processes if isinstance(settings, LocalSettings) else 0
        return f"with {processes} worker process{'' if processes == 1 else 'es'} on this machine"
    workers = f"up to {settings.copy_workers} copy and {settings.list_workers} list workers of {settings.memory_mib} MiB"
    return f"with {workers} in account {found.identity.account}"


def engine_name(settings: Settings) -> str:
    return "local" if isinstance(settings, LocalSettings) else "lambda"


def facts_of(found: Found, copy: CopySettings, settings: Settings, aws: AwsSettings) -> Facts:
    asked: dict[str, Any] = {"max_failures": copy.max_failures, engine_name(settings): settings._asdict()}
    asked["skip_archived"] = copy.selection.skip_archived
    if isinstance(found, Preflight):
        asked["account"] = found.identity.account
    where = tuple(accounts.words(aws, found.region).items())
    return Facts(found.job.run_id, engine_name(settings), version=__version__, aws=where, settings=asked)


def begin_journal(facts: Facts, view: View, *, is_passing: bool) -> Journal:
    """Begin a run's journal: in the state folder, or, where that cannot be written, in the folder for temporary files."""
    if is_passing:
        return Journal.in_memory(facts)
    for run_id in forget_old(time.time()):
        view.detail(f"removed the journal of run {run_id}, which nobody has written for 30 days or more")
    try:
        return Journal.create(journal_path(facts.run_id), facts)
    except JournalUnusable as error:
        view.warning(f"{error.message}; it is kept among the temporary files ({error.hint})")
        return Journal.create(makeshift_path(facts.run_id), facts)


def nothing_to_copy(
    job: Job, settings: Settings, view: View, life: LifeSettings, facts: Facts, counts: Counts | None = None
) -> int:
    snapshot = replace(Tally().snapshot(), complete=True, counts=counts or Counts())
    name = engine_name(settings)
    result = runs.Result(job.run_id, name, str(job.source), str(job.destination), snapshot, (), (), runs.Phases(), 0.0)
    if job.dry:
        requests = planned(snapshot.counts, job, is_named=counts is not None)
        result = replace(result, dry=True, planned=requests, has_prices=is_in_aws(job.destination))
    if life.failures is not None:
        failures.write(life.failures, failures.Header(job.run_id, name, job, portable(facts)), ())
    view.summary(result)
    return 0


def why_nothing(job: Job, counts: Counts, file: str | None = None) -> str:
    """Say why nothing was found to copy, in the source or a `file` of keys: another prefix or filter may have been meant."""
    if counts.filtered and job.filter is None and file is None:
        return f"nothing to copy: there is only the marker of the folder {job.source} itself"
    if counts.filtered:
        return f"nothing to copy: the filters leave out every key that was found ({counts.filtered:,})"
    if file is not None:
        return f"nothing to copy: {file} names no key"
    bucket, prefix = job.source._replace(prefix=""), Sorter(job).prefix
    return f"nothing to copy: no key in {bucket} begins with {prefix!r}" if prefix else f"nothing to copy: {bucket} is empty"


def make_engine(
    found: Found,
    settings: Settings,
    session: AwsSession,
    view: View,
    journal: Journal,
    interrupts: Interrupts,
    *,
    adopts: bool = False,
) -> Engine:
    if isinstance(found, Preflight) and isinstance(settings, StackSettings):
        from s3bulkcopy.engines.awslambda import LambdaEngine  # noqa: PLC0415 - the local engine does without

        return LambdaEngine(
            session,
            found,
            settings,
            version=__version__,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            say=view.step,
            detail=view.detail,
            sleep=interrupts.sleep,
            rest=time.sleep,
            clock=time.monotonic,
            adopts=adopts,
        )
    from s3bulkcopy.engines.local import LocalEngine  # noqa: PLC0415 - the lambda engine does without

    return LocalEngine(
        found.job,
        settings if isinstance(settings, LocalSettings) else LocalSettings(),
        credentials=session.credentials,
        renewed_credentials=session.renewed_credentials,
        ca_file=session.ca_file,
        proxy=session.proxy(found.job.source.url, found.job.destination.url),
        journal=journal,
        sweep=partial(_sweep, session, found.job),
        say=view.step,
        check=interrupts.check,
        clock=time.monotonic,
        lets_in=partial(what_lets_in, found, None),
    )


def _sweep(session: AwsSession, job: Job) -> Swept:
    """Abort the multipart uploads that a run of the local engine has left."""
    from s3bulkcopy.aws.uploads import sweep  # noqa: PLC0415 - few runs have any

    return sweep(session, job.destination, job.run_id, job, is_own_role=False)


# ----------------------------------------------------------------------------------------- what all of them have in common


@dataclass
class Work:
    """A run that is carried to its end, or left to go on by itself."""

    job: Job
    journal: Journal
    view: View
    settings: Settings
    life: LifeSettings
    max_failures: int | None
    make: Callable[[Interrupts], Engine]
    last_words: Callable[[], str] | None = None
    #: As a course has it.
    idle_seconds: float = runs.IDLE_SECONDS
    #: Whether its work was queued by another command; and how long those before this one worked on it, in seconds.
    is_attached: bool = False
    seconds_before: float = 0.0
    _began: float = 0.0
    #: Whether archived objects may be skipped.
    skips_archived: bool = False

    def carry(self, go: Callable[[Course], Result]) -> Result | Detached:
        """Let the run go its course; gives its result, or Detached where that was asked for. Raises what ended it."""
        gc.freeze()
        gc.enable()
        self._began = time.monotonic()
        interrupts = self._interrupts()
        with interrupts:
            engine = self.make(interrupts)
            course = runs.Course(
                engine,
                self.view,
                self.journal,
                time.monotonic,
                self.max_failures,
                interrupts.check,
                self.idle_seconds,
                partial(self._keep_if_failed, engine),
                time.time,
            )
            try:
                result = go(course)
            except Detached as error:
                error.hint = f"{error.hint}. " if error.hint else ""
                error.hint += f"Follow it to its end with: {self._attach_command}; its reports wait until {self._deadline}"
                if type(error) is not Detached:
                    raise
                return error
            except S3BulkCopyError as error:
                self._end(error.exit_code, self._seconds(engine), is_over=not self._may_go_on(error))
                self._say_what_is_left(engine, error)
                raise
        if self.is_attached:
            result = replace(result, seconds=self._seconds(engine), phases=runs.Phases())
        self._take_down(result)
        return result

    def close(self, result: Result | Detached) -> int:
        """Show what came of it, and give the exit code; raises CountsIncomplete where counts are not what they should be."""
        if isinstance(result, Detached):
            self.view.detached(self.job.run_id, self._attach_command, self._deadline, result.counts or Counts())
            return result.exit_code
        snapshot = result.snapshot
        if snapshot.complete and not snapshot.counts.listed and not snapshot.ranges_failed:
            self.view.warning(why_nothing(self.job, snapshot.counts))
        self.view.summary(result, ways_on(self.journal, self.job) if has_failures(snapshot) else ())
        runs.check_counts(result, again(self.job))
        return self._exit_code(result)

    def _exit_code(self, result: Result) -> int:
        return exit_code(result, is_kept=self._is_kept(result.snapshot), skips_archived=self.skips_archived)

    def _take_down(self, result: Result) -> None:
        """Take down how the run ended, and say what of it stays."""
        is_kept = self._is_kept(result.snapshot)
        try:
            runs.check_counts(result)
        except CountsIncomplete as error:
            self._end(error.exit_code, result.seconds)
        else:
            self._end(self._exit_code(result), result.seconds)
        if is_kept:
            self._say_kept(result)

    def _seconds(self, engine: Engine) -> float:
        """Give how long the run took: the commands that carried it on, or what went on by itself, until its last report."""
        if self.is_attached and engine.goes_on:
            return max(self.seconds_before, engine.sent_until - begun(self.job.run_id))
        return self.seconds_before + time.monotonic() - self._began

    def _interrupts(self) -> Interrupts:
        return Interrupts(
            stopping=self._say_stopping,
            last_words=self.last_words or self._farewell,
            hung_up=self._hung_up,
        )

    def _farewell(self) -> str:
        if isinstance(self.settings, StackSettings):
            return f"left at once; clean up with: {self._clean_up}"
        is_begun = self.journal.facts.has_roots and not self.job.dry
        return f"left at once; {f'go on with: {self._attach_command}' if is_begun else 'nothing to clean up'}"

    def _say_stopping(self, number: int) -> None:
        is_local = isinstance(self.settings, LocalSettings)
        how = "requests on their way land first" if is_local else "workers first, then everything is torn down"
        if number == signal.SIGHUP:
            self.view.stopping("the terminal was closed")
        else:
            self.view.stopping(f"stopping: {how} (again to leave at once)")

    def _hung_up(self) -> S3BulkCopyError:
        """Say what a closed terminal does: what is queued goes on in the cloud, all else stops."""
        is_queued = self.is_attached or self.journal.facts.has_roots
        if isinstance(self.settings, StackSettings) and self.last_words is None and is_queued:
            return HungUp(f"the terminal was closed; run {self.job.run_id} goes on without this command")
        return Interrupted("interrupted")

    @property
    def _flags(self) -> str:
        return flags(dict(self.journal.facts.aws))

    @property
    def _clean_up(self) -> str:
        return f"s3bulkcopy teardown {self.job.run_id}{self._flags}"

    @property
    def _attach_command(self) -> str:
        return f"s3bulkcopy attach {self.job.run_id}{self._flags}"

    @property
    def _deadline(self) -> str:
        return when(time.time() + RETENTION_SECONDS)

    def _is_kept(self, snapshot: Snapshot) -> bool:
        return isinstance(self.settings, StackSettings) and (self.settings.keep or self._is_kept_for_failures(snapshot))

    def _is_kept_for_failures(self, snapshot: Snapshot) -> bool:
        has_failed = bool(snapshot.counts.failed or snapshot.ranges_failed)
        return isinstance(self.settings, StackSettings) and self.settings.keep_failed and has_failed

    def _keep_if_failed(self, engine: Engine, snapshot: Snapshot) -> None:
        if not self._is_kept_for_failures(snapshot):
            return
        from s3bulkcopy.engines.awslambda import LambdaEngine  # noqa: PLC0415 - as in make_engine

        if isinstance(engine, LambdaEngine):
            engine.keep()

    def _say_kept(self, result: Result) -> None:
        if isinstance(self.settings, StackSettings) and self.settings.keep:
            self.view.note(f"the run's resources stay in place (--keep); remove them with: {self._clean_up}")
        else:
            self._say_kept_for_failures(when(begun(result.run_id) + RETENTION_SECONDS))

    def _say_kept_for_failures(self, until: str) -> None:
        self.view.note(
            f"the run's resources stay in place, as something failed (--keep-failed); its dead letters live until {until}"
        )
        self.view.note(f"remove everything with: {self._clean_up}")

    def _say_what_is_left(self, engine: Engine, error: S3BulkCopyError) -> None:
        for line in engine.left:
            self.view.warning(f"left behind: {line}")
        if self._may_go_on(error):
            error.hint = f"{error.hint}; then go on" if error.hint else "go on"
            error.hint += f" with: {self._attach_command}"
        elif isinstance(error, Interrupted):
            gone = f"nothing is left of this run but its copies; to go on, {again(self.job)}"
            error.hint = f"clean up with: {self._clean_up}" if engine.left else gone
        elif isinstance(error, ObjectsFailed):
            for line in cause_lines(failures.causes(all_failures(self.journal))):
                self.view.note(line)
            error.hint = "; ".join(filter(None, (error.hint, *ways_on(self.journal, self.job))))
        if isinstance(self.settings, StackSettings) and (self.is_attached or self.journal.facts.has_roots):
            if self.settings.keep:
                self.view.note(f"the run's resources stay in place (--keep); remove them with: {self._clean_up}")
            elif self.settings.keep_failed and isinstance(error, ObjectsFailed):
                self._say_kept_for_failures(when(time.time() + RETENTION_SECONDS))

    def _may_go_on(self, error: S3BulkCopyError) -> bool:
        """Tell whether another command can go on where an error ended this one: its tasks are in the journal."""
        is_local = isinstance(self.settings, LocalSettings)
        is_mendable = isinstance(error, Interrupted | NotPermitted | JournalUnusable)
        return is_local and self.journal.facts.has_roots and is_mendable

    def _end(self, code: int, seconds: float, *, is_over: bool = True) -> None:
        """Take down how the run ended, if it has, and write what failed."""
        with suppress(JournalUnusable):  # who could not be written to is not the worse for it
            settings = {**self.journal.facts.settings, "seconds": seconds}
            settings.pop("since", None)
            self.journal.note(replace(self.journal.facts, ended=code if is_over else None, settings=settings))
        if self.life.failures is None:
            return
        header = failures.Header(self.job.run_id, self.journal.facts.engine, self.job, portable(self.journal.facts))
        try:
            number = failures.write(self.life.failures, header, all_failures(self.journal))
        except (OSError, JournalUnusable) as error:
            self.view.warning(
                f"could not write {self.life.failures}: {cause_of(error)}; see `s3bulkcopy failures {self.job.run_id}`"
            )
        else:
            self.view.note(f"wrote what failed ({number:,}) to {self.life.failures}")


def has_failures(snapshot: Snapshot) -> bool:
    """Tell whether there is anything that `failures` shows."""
    counts = snapshot.counts
    return bool(counts.failed or counts.archived or snapshot.ranges_failed)


def ways_on(journal: Journal, job: Job) -> list[str]:
    """Name the commands that show what failed and copy it; none where the journal, which may be closed, ends with this one."""
    facts, is_known = journal.facts, journal.outlives and bool(job.source.bucket)
    shows = [f"all that failed, and why: s3bulkcopy failures {facts.run_id}"] if journal.outlives else []
    return shows + ([f"copy it with: s3bulkcopy retry {facts.run_id}{flags(dict(facts.aws))}"] if is_known else [])


def all_failures(journal: Journal) -> Iterator[Failure | RangeFailure]:
    """Give every object and every range of a journal that failed."""
    tally = journal.replay()
    return chain(journal.failures(tally), journal.failed_ranges(tally))


def portable(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Give the options that mean the same on another machine."""
    return tuple((name, value) for name, value in facts.aws if name != "profile")


def again(job: Job) -> str:
    """Say what copies the rest of a run; a store that is not AWS's may overwrite whatever it is asked."""
    if is_in_aws(job.destination):
        return "run it again with --no-overwrite, which copies only what is missing"
    return "run it again"


def exit_code(result: Result, *, is_kept: bool, skips_archived: bool) -> int:
    """Give the code of a run that ended with counts that add up."""
    counts = result.snapshot.counts
    if counts.failed or result.snapshot.ranges_failed or (counts.archived and not skips_archived):
        return ObjectsFailed.exit_code
    if result.resources_left and not is_kept:
        return LeftBehind.exit_code
    return 0
