"""Options of two engines: which apply, and what is said of the others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner, Result

from s3bulkcopy import options
from s3bulkcopy.settings import LocalSettings, StackSettings

if TYPE_CHECKING:
    from pathlib import Path


def chosen(*arguments: str, **variables: str) -> tuple[Result, StackSettings | LocalSettings | None]:
    """Give what a command line and variables of the environment ask for."""
    found: list[StackSettings | LocalSettings] = []

    @click.command()
    @options.engine_options
    @options.copy_options
    @options.stack_options
    @options.output_options
    def command(**values: Any) -> None:
        found.append(options.engine_settings(values))

    result = CliRunner().invoke(command, arguments, env={f"S3BULKCOPY_{name}": value for name, value in variables.items()})
    return result, found[0] if found else None


def test_an_option_of_the_other_engine_is_refused() -> None:
    for arguments in (["--engine", "local", "--workers", "3"], ["--processes", "3"]):
        result, settings = chosen(*arguments)

        assert (result.exit_code, settings, "is an option of the" in result.stderr) == (2, None, True)


def test_a_variable_for_the_other_engine_is_named_and_ignored() -> None:
    local, lambdas = chosen("--engine", "local", "--processes", "2", WORKERS="20", TAG="a=b"), chosen(PROCESSES="3")

    assert local[1] == LocalSettings(2)
    assert local[0].stderr.splitlines() == [
        "note: S3BULKCOPY_WORKERS is ignored, as it is for the lambda engine",
        "note: S3BULKCOPY_TAG is ignored, as it is for the lambda engine",
    ]
    assert lambdas[1] == StackSettings()
    assert lambdas[0].stderr == "note: S3BULKCOPY_PROCESSES is ignored, as it is for the local engine\n"


def test_variables_for_the_engine_in_use_are_taken_in_silence() -> None:
    result, settings = chosen(ENGINE="local", PROCESSES="3")

    assert (settings, result.output) == (LocalSettings(3), "")


def test_nothing_is_said_of_variables_where_only_errors_are_wanted() -> None:
    result, settings = chosen("--engine", "local", "--processes", "2", "--quiet", WORKERS="20")

    assert (settings, result.output) == (LocalSettings(2), "")


def test_without_a_number_there_is_a_process_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("--engine", "local")[1] == LocalSettings(len(os.sched_getaffinity(0)))

    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert chosen("--engine", "local")[1] == LocalSettings(os.cpu_count() or 1)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("1.5h", 5400), ("2d", 172_800)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert options.DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "2", "d", "-1d", "2 d", "2w", "1e3s"])
def test_another_age_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 30s, 15m, 12h or 2d"):
        options.DurationType().convert(text, None, None)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    assert options.NewFileType().convert(str(tmp_path / "new"), None, None) == tmp_path / "new"
    for path in (tmp_path, tmp_path / "missing" / "new"):
        with pytest.raises(click.BadParameter, match="folder"):
            options.NewFileType().convert(str(path), None, None)


def test_what_goes_on_in_aws_is_for_the_lambda_engine() -> None:
    result, settings = chosen("--engine", "local", "--keep-failed")

    assert (result.exit_code, settings, "is an option of the lambda engine" in result.stderr) == (2, None, True)
