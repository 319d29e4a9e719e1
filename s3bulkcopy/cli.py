"""The commands, and the only place where the process ends with a code."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

import click
from click.core import ParameterSource

from s3bulkcopy import __version__, options
from s3bulkcopy.errors import EXIT_CODES, Interrupted, S3BulkCopyError, UsageError
from s3bulkcopy.settings import BucketPrefix, PropertySettings

if TYPE_CHECKING:
    from s3bulkcopy.settings import OutputSettings

# Each command imports what it needs when it is called: boto3 alone takes longer to import than all else that --help does.

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())

_EXAMPLES = """\b
Examples:
  s3bulkcopy run my-old-bucket my-new-bucket --dry-run
  s3bulkcopy run s3://logs/2025/ s3://archive/logs-2025/ --storage-class GLACIER_IR
  s3bulkcopy run old new --engine local --endpoint-url https://store.example:9000
"""


@click.group(
    cls=options.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EXIT_CODES
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Copy millions to billions of S3 objects from one bucket to another, server-side."""


# ------------------------------------------------------------------------------------------------------ copying objects


@cli.command(cls=options.CopyCommand, epilog=f"{_EXIT_CODES}\n\n{_EXAMPLES}")
@options.locations
@options.filter_options
@options.engine_options
@options.copy_options
@options.property_options
@options.stack_options
@options.detach_option
@options.failures_option
@options.aws_options
@options.output_options
def run(**values: Any) -> None:  # noqa: ANN401 - click's own
    """Copy every object under SRC to DST, or a selection of them.

    SRC and DST are a bucket, s3://bucket, s3://bucket/prefix, or an access point's ARN, with /prefix behind it if there is one.
    A key under SRC keeps what follows SRC's prefix, byte for byte, behind DST's. Queues and Lambda functions are made for this
    run and removed when it ends. With --engine local nothing is made: the workers are processes on this machine. With
    --dry-run they only list, and tell how much there is to copy.

    With --detach, or where the terminal is closed, a run goes on in AWS: `s3bulkcopy attach` follows it to its end.
    """
    output, life = options.output_settings(values), options.life_settings(values)
    selection = options.selection(values)
    engine, aws = options.engine_settings(values, dry=values["dry_run"]), options.aws_settings(values)
    copy = options.copy_settings(values, options.property_settings(values), selection)
    if copy.dry and life.detach:
        raise UsageError("a dry run queues nothing that could go on: --dry-run and --detach exclude each other")
    _speak(output)
    from s3bulkcopy.commands import copying  # noqa: PLC0415

    sys.exit(copying.run(copy, engine, aws, output, life))


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id")
@click.option("--take-over", is_flag=True, help="Count what the reports still hold, without the journal, and end the run.")
@click.option("--idle-seconds", type=click.FloatRange(1), default=300, show_default=True, metavar="SECONDS",
              help="Where not all reports can come any more: end after so long without work and reports.")  # fmt: skip
@options.failures_option
@options.aws_options
@options.output_options
def attach(run_id: str, *, take_over: bool, idle_seconds: float, **values: Any) -> None:  # noqa: ANN401
    """Follow a run that was detached, or whose command was killed.

    It is followed to its end. The machine where it was begun has its journal, so that counts are exact; then everything is
    torn down, and summary and exit code are those of `run`. Elsewhere, or where another process follows it, this command only
    looks on. --take-over counts what the run's reports still hold without its journal, which ends with code 8: the counts are
    incomplete.
    """
    output, aws, life = options.output_settings(values), options.aws_settings(values), options.life_settings(values)
    _speak(output)
    from s3bulkcopy.commands import returning, tending  # noqa: PLC0415

    look_on = partial(tending.look_on, run_id, aws, output)
    sys.exit(returning.attach(run_id, aws, output, life, take_over=take_over, idle_seconds=idle_seconds, look_on=look_on))


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id", required=False)
@options.as_first_run
@click.option("--failures", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Take what failed from a file that `run` or `attach` wrote, in place of a journal here.")  # fmt: skip
@options.engine_options
@options.copy_options
@options.stack_options
@options.detach_option
@options.aws_options
@options.output_options
@click.pass_context
def retry(context: click.Context, /, run_id: str | None, file: Path | None, **values: Any) -> None:  # noqa: ANN401
    """Copy what failed of a run, and nothing else.

    That is the objects that failed, and what is in the ranges that were not listed to the end. It is a run of its own, with
    the engine and the rules of the first one, unless options say otherwise. Objects are copied as they are now. If the first
    run was kept (--keep-failed), its dead letters are deleted as far as they are done, and when nothing of it fails any more
    it is torn down.
    """
    output, aws, life = options.output_settings(values), options.aws_settings(values), options.life_settings(values)
    _speak(output)
    if (run_id is None) == (file is None):
        raise UsageError("name the run to retry, or give --failures FILE: one of them")
    from s3bulkcopy.commands import accounts, returning  # noqa: PLC0415

    with returning.open_retry(run_id, file) as again:
        job = again.header.job
        values |= {
            name: BucketPrefix(place.bucket, place.prefix)
            for name, place in (("source", job.source), ("destination", job.destination))
        }
        if context.get_parameter_source("engine") is ParameterSource.DEFAULT:
            values["engine"] = again.header.engine
        if context.get_parameter_source("batch_size") is ParameterSource.DEFAULT:
            values["batch_size"] = job.batch_keys
        for name, size in (("multipart_threshold", job.multipart_bytes), ("part_size", job.part_bytes)):
            if context.get_parameter_source(name) is ParameterSource.DEFAULT:
                values[name] = size
        properties = PropertySettings(**job.policy._asdict())
        engine, copy = options.engine_settings(values), options.copy_settings(values, properties)
        if copy.dry:
            raise UsageError("a retry cannot be tried dry", hint="`s3bulkcopy failures` shows what it would copy")
        copy = copy._replace(overwrite=copy.overwrite and job.overwrite)
        sys.exit(returning.retry(again, copy, engine, accounts.settings(aws, dict(again.header.aws)), output, life))


@cli.command(epilog=_EXIT_CODES)
@click.option(
    "--objects", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="How many objects to copy."
)
@click.option("--port", type=click.IntRange(1024, 65535), help="Port of the emulator; a free one by default.")
@options.output_options
def demo(objects: int, port: int | None, **values: Any) -> None:  # noqa: ANN401
    """Do a whole run on an AWS emulator on this machine.

    It needs no account, costs nothing and leaves nothing. Starts ministack, fills a bucket (awkward keys among the others),
    runs `s3bulkcopy run` on it, and compares destination with source by listing both.
    """  # fmt: skip
    output = options.output_settings(values)
    _speak(output)
    from s3bulkcopy import demo as demos  # noqa: PLC0415
    from s3bulkcopy.commands import copying  # noqa: PLC0415
    from s3bulkcopy.view import put_text  # noqa: PLC0415

    sys.exit(demos.demo(objects, port, output, run=copying.run, say=partial(put_text, sys.stderr)))


# -------------------------------------------------------------------------------------------------------- tending runs


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id", required=False)
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@options.aws_options
@options.output_options
def status(run_id: str | None, *, watch: bool, **values: Any) -> None:  # noqa: ANN401
    """Show the runs of this account and machine, or one in detail.

    Runs of the lambda engine are those in the account and region, runs of the local engine those on this machine. A run that
    goes on by itself and has nothing left to do is shown as `finished, awaiting attach`, with the time until when its reports
    wait.
    """
    output, aws = options.output_settings(values), options.aws_settings(values)
    _speak(output)
    from s3bulkcopy.commands import tending  # noqa: PLC0415

    sys.exit(tending.status(run_id, aws, output, watch=watch))


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id")
@click.option("--output", "form", type=click.Choice(["text", "json", "csv"]), default="text", show_default=True,
              help="json and csv: a line each, json with every character of a key as it is.")  # fmt: skip
def failures(run_id: str, form: Literal["text", "json", "csv"]) -> None:
    """Show what failed of a run, why, and what to do.

    This is for the machine that has the run's journal, also while the run goes on.
    """
    from s3bulkcopy.commands import tending  # noqa: PLC0415

    sys.exit(tending.failures(run_id, form))


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_id")
@options.aws_options
@options.output_options
def halt(run_id: str, **values: Any) -> None:  # noqa: ANN401
    """Stop a run at once, from any machine.

    Workers begin nothing more, may not write, and the queues are emptied. The command that watches the run tears it down and
    ends with code 9. Where nobody watches it, `teardown` removes it.
    """
    output, aws = options.output_settings(values), options.aws_settings(values)
    _speak(output)
    from s3bulkcopy.commands import tending  # noqa: PLC0415

    sys.exit(tending.halt(run_id, aws, output))


@cli.command(epilog=_EXIT_CODES)
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--all", "everything", is_flag=True, help="Every run of yours in this account and region.")
@click.option("--older-than", type=options.DurationType(), metavar="AGE", help="With --all: only runs older than 30m, 12h, 2d.")
@click.option("--everyone", is_flag=True, help="With --all: other people's runs, too.")
@options.aws_options
@options.output_options
def teardown(
    run_ids: tuple[str, ...],
    *,
    everything: bool,
    older_than: float | None,
    everyone: bool,
    **values: Any,  # noqa: ANN401
) -> None:
    """Stop runs and remove what they left.

    It is found by names and tags alone. May be repeated.

    A run of the local engine that was stopped is dismissed: its uploads are aborted, and `status` shows it no more.

    A run is yours if whoever began it has the same ARN (`aws sts get-caller-identity`): a role's session name is part of that.
    """
    output, aws = options.output_settings(values), options.aws_settings(values)
    _speak(output)
    if bool(run_ids) == everything:
        wrong = "give run ids or --all, not both" if everything else "name the runs to tear down, or give --all"
        raise UsageError(wrong, hint="`s3bulkcopy status` lists the runs")
    if not everything and (older_than is not None or everyone):
        raise UsageError("--older-than and --everyone say which runs --all means", hint="give --all, or leave them out")
    from s3bulkcopy.commands import tending  # noqa: PLC0415

    which = tending.Everything(older_than, of_everyone=everyone) if everything else None
    sys.exit(tending.teardown(run_ids, which, aws, output))


# ----------------------------------------------------------------------------------------------------------- the process


def _speak(output: OutputSettings) -> None:
    """Warn of variables that mean nothing, and let AWS calls be seen on request."""
    for name, nearest in () if output.quiet else options.unknown_variables(cli, os.environ).items():
        click.echo(f"warning: no option has the variable {name}{f': is {nearest} meant?' if nearest else ''}", err=True)
    if output.verbose > 1:
        import logging  # noqa: PLC0415 - only AWS calls are logged

        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
        logging.getLogger("s3bulkcopy.aws").setLevel(logging.INFO)


def main() -> NoReturn:
    """Run the command line; every error ends here."""
    gc.disable()  # what a command imports stays: looking for garbage in it takes a tenth of the start
    # Where no run is under way, SIGTERM ends the command as Ctrl-C does: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name="s3bulkcopy", standalone_mode=False)
    except click.ClickException as error:
        from s3bulkcopy.view import put_text  # noqa: PLC0415

        said = io.StringIO()
        error.show(said)
        put_text(sys.stderr, said.getvalue().rstrip())
        code = error.exit_code
    except SystemExit as ended:
        code = int(ended.code or 0)
    except click.Abort:
        code = Interrupted.exit_code
    except S3BulkCopyError as error:
        from s3bulkcopy.view import show_error  # noqa: PLC0415

        show_error(error, sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    except BrokenPipeError:
        code = 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo(f"error: what was asked for cannot be written: {error.strerror}", err=True)
        code = 1
    else:
        code = 0
    is_told = _flush(sys.stdout)
    _flush(sys.stderr)
    sys.exit(code if is_told else code or 1)


def _flush(stream: TextIO) -> bool:
    """Tell whether all that was written to a stream is; the rest is let go of, as Python would end with a code of its own."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True
