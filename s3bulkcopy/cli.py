"""The commands, and the only place where the process ends with a code."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from s3bulkcopy import __version__, options
from s3bulkcopy.errors import (
    CountsIncomplete,
    Detached,
    Interrupted,
    JournalUnusable,
    LeftBehind,
    ObjectsFailed,
    S3BulkCopyError,
    UsageError,
)
from s3bulkcopy.settings import REQUEST_DOLLARS, LocalSettings, StackSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s3bulkcopy.aws.discover import FoundRun
    from s3bulkcopy.aws.preflight import Found, Preflight
    from s3bulkcopy.aws.session import AwsSession
    from s3bulkcopy.engines import Engine
    from s3bulkcopy.interrupts import Interrupts
    from s3bulkcopy.journal import Journal
    from s3bulkcopy.run import Result
    from s3bulkcopy.settings import AwsSettings, CopySettings, OutputSettings
    from s3bulkcopy.view import View
    from s3bulkcopy.worker.model import Job

#: How often `status --watch` looks again, in seconds.
WATCH_SECONDS = 2.0

_EXIT_CODES = """\b
Exit codes:
    0  every selected object is at the destination
    1  unexpected
    2  bad usage: nothing was touched
    3  the run ended, and some objects failed (they are listed)
    4  a bucket was not found, or refused
    5  not permitted: no credentials, expired ones, or an action denied
    6  could not deploy: what was made is gone again
    7  something was left behind: the command that removes it is printed
    8  the run ended, but the counts are incomplete
    9  halted by someone
  130  interrupted: torn down first"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EXIT_CODES)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Copy millions to billions of S3 objects from one bucket to another, server-side."""


# ------------------------------------------------------------------------------------------------------------------ run


@cli.command(epilog=_EXIT_CODES)
@options.locations
@options.engine_options
@options.copy_options
@options.stack_options
@options.aws_options
@options.output_options
def run(**values: Any) -> None:  # noqa: ANN401 - click's own
    """Copy every object under SRC to DST.

    SRC and DST are a bucket, s3://bucket or s3://bucket/prefix. A key under SRC keeps what follows SRC's prefix, byte for
    byte, behind DST's. Queues and Lambda functions are made for this run and removed when it ends. With --engine local nothing
    is made: the workers are processes on this machine. With --dry-run they only list, and tell how much there is to copy.
    """
    output = options.output_settings(values)
    copy, engine, aws = options.copy_settings(values), options.engine_settings(values), options.aws_settings(values)
    _speak(output)
    sys.exit(_run(copy, engine, aws, output))


def _run(
    copy: CopySettings,
    settings: StackSettings | LocalSettings,
    aws: AwsSettings,
    output: OutputSettings,
    *,
    last_words: Callable[[], str] | None = None,
) -> int:
    """Run; `last_words` are said in place of the command that cleans up where a second Ctrl-C leaves at once.

    Who gives them has a cloud that ends with the command, and a journal that does, too.
    """
    from s3bulkcopy.aws.preflight import check_overlap, look, preflight  # noqa: PLC0415 - boto3 is slow to import
    from s3bulkcopy.aws.session import AwsSession  # noqa: PLC0415
    from s3bulkcopy.aws.stack import new_run_id  # noqa: PLC0415
    from s3bulkcopy.view import make_view  # noqa: PLC0415

    run_id = new_run_id(time.time(), os.urandom(3).hex())
    view = make_view(output, stdout=sys.stdout, stderr=sys.stderr, is_terminal=sys.stderr.isatty(), clock=time.monotonic)
    check_overlap(copy.source, copy.destination)
    if copy.dry and isinstance(settings, StackSettings):
        settings = LocalSettings(options.processors())
    with view:
        view.step("checking credentials and buckets")
        session = AwsSession(aws)
        found: Found
        make: Callable[[Interrupts, Journal], Engine]
        if isinstance(settings, LocalSettings):
            found = look(session, copy, run_id)
            workers = f"with {settings.processes} worker processes on this machine"
            make = partial(_local_engine, found, settings, session, view)
        else:
            found = checked = preflight(session, aws, copy, run_id)
            workers = _lambda_workers(checked, settings)
            make = partial(_lambda_engine, checked, settings, session, view)
        plan = [_dry_line(found.job) if copy.dry else _plan_line(found.job, copy), workers]
        view.plan(run_id, plan, source=str(found.job.source), destination=str(found.job.destination))
        if found.uncut:
            view.warning(f"{found.job.source} is listed page after page, not in ranges of keys: {found.uncut}")
        if found.first_page.items:
            with _journal(run_id, settings, aws, found.region, view, is_passing=copy.dry or last_words is not None) as journal:
                result = _copy(found, copy, settings, make, view, journal, last_words)
                code = _exit_code(result, is_kept=_is_kept(settings))
                journal.note(replace(journal.facts, ended=code))
        else:
            result, code = _nothing_to_copy(found.job, settings), 0
    view.summary(result)
    return code


def _journal(
    run_id: str, settings: StackSettings | LocalSettings, aws: AwsSettings, region: str, view: View, *, is_passing: bool
) -> Journal:
    """Begin the run's journal: in the state folder, or, where that cannot be written, in the folder for temporary files."""
    from s3bulkcopy.journal import Facts, Journal, journal_path  # noqa: PLC0415

    engine = "local" if isinstance(settings, LocalSettings) else "lambda"
    facts = Facts(run_id, engine, version=__version__, aws=tuple(_aws_words(aws, region).items()))
    if is_passing:
        return Journal.in_memory(facts)
    try:
        return Journal.create(journal_path(run_id), facts)
    except JournalUnusable as error:
        view.warning(f"{error.message}; it is kept among the temporary files ({error.hint})")
        return Journal.create(Path(tempfile.gettempdir()) / f"s3bulkcopy-{os.getuid()}" / f"{run_id}.journal", facts)


def _plan_line(job: Job, copy: CopySettings) -> str:
    existing = "existing objects are overwritten" if copy.overwrite else "existing objects are left alone"
    here, there = job.source.region, job.destination.region
    where = here if here == there else f"{here} to {there}"
    what = f"run {job.run_id}: copying {job.source} to {job.destination} ({where}), current versions only; {existing}"
    return f"{what}; a million COPY requests cost ${REQUEST_DOLLARS * 1_000_000:.2f}"


def _dry_line(job: Job) -> str:
    return f"dry run {job.run_id}: listing {job.source}; nothing is made, and nothing is copied to {job.destination}"


def _lambda_workers(found: Preflight, stack: StackSettings) -> str:
    workers = f"up to {stack.copy_workers} copy and {stack.list_workers} list workers of {stack.memory_mib} MiB"
    return f"with {workers} in account {found.identity.account}"


def _is_kept(settings: StackSettings | LocalSettings) -> bool:
    return isinstance(settings, StackSettings) and settings.keep


def _copy(
    found: Found,
    copy: CopySettings,
    settings: StackSettings | LocalSettings,
    make: Callable[[Interrupts, Journal], Engine],
    view: View,
    journal: Journal,
    last_words: Callable[[], str] | None,
) -> Result:
    from s3bulkcopy import run as runs  # noqa: PLC0415
    from s3bulkcopy.interrupts import Interrupts  # noqa: PLC0415

    is_local = isinstance(settings, LocalSettings)
    clean_up = f"s3bulkcopy teardown {found.job.run_id}{_flags(dict(journal.facts.aws))}"
    stopping = "requests on their way land first" if is_local else "workers first, then everything is torn down"
    farewell = "left at once; nothing to clean up" if is_local else f"left at once; clean up with: {clean_up}"
    interrupts = Interrupts(
        stopping=partial(view.stopping, f"stopping: {stopping} (again to leave at once)"),
        last_words=last_words or (lambda: farewell),
    )
    gc.freeze()
    gc.enable()
    with interrupts:
        engine = make(interrupts, journal)
        try:
            course = runs.Course(engine, view, journal, time.monotonic, copy.max_failures, interrupts.check)
            return runs.run(found.job, found.first_page, course, is_cut=not found.uncut)
        except S3BulkCopyError as error:
            if not isinstance(error, Detached):
                journal.note(replace(journal.facts, ended=error.exit_code))
            for line in engine.left:
                view.warning(f"left behind: {line}")
            if isinstance(error, Interrupted):
                again = "nothing is left of this run but its copies; to go on, run it again with --no-overwrite"
                error.hint = f"clean up with: {clean_up}" if engine.left else again
            raise
        finally:
            if _is_kept(settings):
                view.note(f"the run's resources stay in place (--keep); remove them with: {clean_up}")


def _local_engine(
    found: Found, settings: LocalSettings, session: AwsSession, view: View, interrupts: Interrupts, journal: Journal
) -> Engine:
    from s3bulkcopy.engines.local import LocalEngine  # noqa: PLC0415

    return LocalEngine(
        found.job,
        settings,
        credentials=session.credentials,
        renewed_credentials=session.renewed_credentials,
        ca_file=session.ca_file,
        proxy=session.proxy(found.job.source.url, found.job.destination.url),
        journal=journal,
        say=view.step,
        check=interrupts.check,
        clock=time.monotonic,
    )


def _lambda_engine(
    found: Preflight, settings: StackSettings, session: AwsSession, view: View, interrupts: Interrupts, _journal: Journal
) -> Engine:
    from s3bulkcopy.aws.preflight import check_quota  # noqa: PLC0415
    from s3bulkcopy.engines.awslambda import LambdaEngine  # noqa: PLC0415

    check_quota(found, settings)
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
    )


def _nothing_to_copy(job: Job, settings: StackSettings | LocalSettings) -> Result:
    from s3bulkcopy import run as runs  # noqa: PLC0415
    from s3bulkcopy.tally import Tally  # noqa: PLC0415

    engine = "local" if isinstance(settings, LocalSettings) else "lambda"
    return runs.Result(
        job.run_id, engine, str(job.source), str(job.destination), Tally().snapshot(), (), (), runs.Phases(), 0.0, dry=job.dry
    )


def _exit_code(result: Result, *, is_kept: bool) -> int:
    """Give the code of a run that ended."""
    counts, snapshot = result.snapshot.counts, result.snapshot
    if counts.failed or snapshot.ranges_failed:
        return ObjectsFailed.exit_code
    if not result.dry and counts.listed != counts.copied + counts.skipped + counts.vanished:
        return CountsIncomplete.exit_code
    if result.resources_left and not is_kept:
        return LeftBehind.exit_code
    return 0


# --------------------------------------------------------------------------------------------------------------- status


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id", required=False)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@options.aws_options
@options.output_options
def status(run_id: str | None, *, watch: bool, **values: Any) -> None:  # noqa: ANN401
    """Show the runs in this account and region, or one run in detail."""
    output, aws = options.output_settings(values), options.aws_settings(values)
    _speak(output)
    from s3bulkcopy.aws.discover import find_run, find_runs  # noqa: PLC0415
    from s3bulkcopy.aws.session import AwsSession  # noqa: PLC0415

    if run_id is not None:
        _check_run_id(run_id)
    session = AwsSession(aws)
    region = _region(session, aws)

    def look() -> list[FoundRun]:
        if run_id is None:
            return list(find_runs(session, region))
        found = find_run(session, region, run_id)
        if found is None:
            raise UsageError(
                f"there is no run {run_id} in {region}",
                hint="`s3bulkcopy status` lists the runs of a region; see --region",
            )
        return [found]

    with suppress(KeyboardInterrupt):
        for runs in _again(look, watch=watch):
            _show_runs(runs, output, region, flags=_flags(_aws_words(aws, region)), detail=run_id is not None, live=watch)


def _again(look: Callable[[], list[FoundRun]], *, watch: bool) -> Iterator[list[FoundRun]]:
    yield look()
    while watch:
        time.sleep(WATCH_SECONDS)
        yield look()


def _show_runs(runs: Sequence[FoundRun], output: OutputSettings, region: str, *, flags: str, detail: bool, live: bool) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from s3bulkcopy.status import run_as_json, runs_as_text  # noqa: PLC0415

    if output.json:
        for found in runs:
            click.echo(json.dumps(run_as_json(found)))
        return
    if live and sys.stdout.isatty():
        click.clear()
    click.echo(runs_as_text(runs, region, datetime.now(UTC), flags=flags if detail else None))


# ------------------------------------------------------------------------------------------------------------- teardown


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "everything", is_flag=True, help="Every run in this account and region.")
@options.aws_options
@options.output_options
def teardown(run_ids: tuple[str, ...], *, everything: bool, **values: Any) -> None:  # noqa: ANN401
    """Stop runs and remove what they left, found by names and tags alone. May be repeated."""
    output, aws = options.output_settings(values), options.aws_settings(values)
    _speak(output)
    if bool(run_ids) == everything:
        wrong = "give run ids or --all, not both" if everything else "name the runs to tear down, or give --all"
        raise UsageError(wrong, hint="`s3bulkcopy status` lists the runs")
    from s3bulkcopy.aws.discover import find_runs  # noqa: PLC0415
    from s3bulkcopy.aws.session import AwsSession  # noqa: PLC0415
    from s3bulkcopy.view import make_view  # noqa: PLC0415

    for name in run_ids:
        _check_run_id(name)
    session = AwsSession(aws)
    region = _region(session, aws)
    names = run_ids or tuple(found.run_id for found in find_runs(session, region))
    view = make_view(output, stdout=sys.stdout, stderr=sys.stderr, is_terminal=False, clock=time.monotonic)
    left = [line for name in names for line in _tear_down(session, region, name, output, view)]
    if not names and not output.json:
        click.echo(f"no runs in {region}: nothing to remove")
    sys.exit(LeftBehind.exit_code if left else 0)


def _tear_down(session: Any, region: str, run_id: str, output: OutputSettings, view: View) -> list[str]:  # noqa: ANN401
    from s3bulkcopy.aws import teardown as teardowns  # noqa: PLC0415

    try:
        teardowns.halt(session, region, run_id, say=view.step, sleep=time.sleep)
    except S3BulkCopyError as error:
        view.warning(f"could not stop the workers first: {error.message}")
    done = teardowns.teardown(session, region, run_id, say=view.step, sleep=time.sleep)
    left = [f"{left.name} ({left.why}): {left.command}" for left in done.left]
    if output.json:
        click.echo(json.dumps({"run_id": run_id, "removed": list(done.removed), "left": left}))
        return left
    removed = f"removed {len(done.removed)} resources" if done.removed else "nothing was there"
    click.echo(f"{run_id}: {removed}")
    if not output.quiet:
        for name in done.removed:
            click.echo(f"  removed {name}")
    for line in left:
        click.echo(f"  left    {line}", err=True)
    return left


# ----------------------------------------------------------------------------------------------------------------- demo


@cli.command(epilog=_EXIT_CODES)
@click.option(
    "--objects", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="How many objects to copy."
)
@click.option("--port", type=click.IntRange(1024, 65535), help="Port of the emulator; a free one by default.")
@options.output_options
def demo(objects: int, port: int | None, **values: Any) -> None:  # noqa: ANN401
    """Do a whole run on an AWS emulator on this machine; needs no account, costs nothing, leaves nothing.

    Starts ministack, fills a bucket (awkward keys among the others), runs `s3bulkcopy run` on it, and compares destination
    with source by listing both.
    """  # fmt: skip
    output = options.output_settings(values)
    _speak(output)
    from s3bulkcopy import demo as demos  # noqa: PLC0415

    sys.exit(demos.demo(objects, port, output, run=_run, say=partial(click.echo, err=True)))


# --------------------------------------------------------------------------------------------------------------- helpers


def _speak(output: OutputSettings) -> None:
    """Let AWS calls be seen on request."""
    if output.verbose > 1:
        import logging  # noqa: PLC0415 - only AWS calls are logged

        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
        logging.getLogger("s3bulkcopy.aws").setLevel(logging.INFO)


def _region(session: Any, aws: AwsSettings) -> str:  # noqa: ANN401
    """Give the region to look in, having made sure that AWS answers at all."""
    from s3bulkcopy.aws.session import identity  # noqa: PLC0415

    region = aws.region or session.region
    if not region:
        raise UsageError("no region given", hint="give --region, or set AWS_REGION or a region in your profile")
    identity(session)
    return str(region)


def _check_run_id(text: str) -> None:
    from s3bulkcopy.aws.stack import is_run_id  # noqa: PLC0415

    if not is_run_id(text):
        hint = "it looks like 20261123-121632-4f2a91; `s3bulkcopy status` lists them"
        raise UsageError(f"{text!r} is not a run id", hint=hint)


def _aws_words(aws: AwsSettings, region: str) -> dict[str, str]:
    """Give the options by which another command reaches the same account."""
    words = {"region": region, "profile": aws.profile, "endpoint-url": aws.endpoint_url}
    return {name: value for name, value in words.items() if value}


def _flags(words: dict[str, str]) -> str:
    return "".join(f" --{name} {value}" for name, value in words.items())


def main() -> NoReturn:
    """Run the command line; every error ends here."""
    gc.disable()  # what a command imports stays: looking for garbage in it takes a tenth of the start
    # Where no run is under way, SIGTERM ends the command as Ctrl-C does: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name="s3bulkcopy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = Interrupted.exit_code
    except S3BulkCopyError as error:
        from s3bulkcopy.view import show_error  # noqa: PLC0415

        show_error(error, sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    else:
        code = 0
    sys.exit(code)
