"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from s3bulkcopy import cli, errors, options
from s3bulkcopy.aws.policy import caller_policy

README = (Path(__file__).parents[2] / "README.md").read_text()


DOCS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))


def test_the_tests_that_the_docs_name_are_there() -> None:
    named = {path for doc in DOCS for path in re.findall(r"`(tests/[\w/.]+)`", doc.read_text())}

    assert len(named) > 10
    assert [path for path in sorted(named) if not (Path(__file__).parents[2] / path).exists()] == []


def test_the_readme_names_the_permissions_that_the_code_asks_for() -> None:
    block = README.split("## Permissions you need")[1].split("```json\n")[1].split("```")[0]

    assert json.loads(block) == caller_policy()


def test_the_readme_names_every_option_of_run() -> None:
    options = {name for option in cli.run.params if isinstance(option, click.Option) for name in option.opts}

    unnamed = {name for name in options if name not in README and name not in ("--verbose", "-q")}
    assert unnamed == set()


def test_the_readme_names_every_exit_code() -> None:
    known = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.S3BulkCopyError)}

    named = {int(code) for code in re.findall(r"^\| (\d+) \|", README.split("## Exit codes")[1], re.MULTILINE)}
    assert named == known | {0}


def test_a_variable_that_no_option_has_is_named_with_the_one_that_is_most_like_it() -> None:
    ours = {"S3BULKCOPY_WORKERS", "S3BULKCOPY_STATE_DIR", "S3BULKCOPY_WORKRES", "S3BULKCOPY_XYZ", "PATH"}

    assert options.unknown_variables(cli.cli, ours) == {"S3BULKCOPY_WORKRES": "S3BULKCOPY_WORKERS", "S3BULKCOPY_XYZ": ""}


def test_a_retry_says_that_its_defaults_are_those_of_the_first_run() -> None:
    told = {option.name: option.show_default for option in cli.retry.params if isinstance(option, click.Option)}

    as_before = {name for name, default in told.items() if default == "as the first run's"}
    assert as_before == {"engine", "batch_size", "no_overwrite"}
    assert "as the first run's" not in [option.show_default for option in cli.run.params if isinstance(option, click.Option)]


def test_every_option_has_an_environment_variable() -> None:
    options = [option for option in cli.run.params if isinstance(option, click.Option) and option.name != "help"]

    assert {option.envvar for option in options} == {
        "S3BULKCOPY_" + option.opts[0].removeprefix("--").replace("-", "_").upper() for option in options
    }
