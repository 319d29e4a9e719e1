"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from s3bulkcopy import cli, errors
from s3bulkcopy.aws.policy import caller_policy

README = (Path(__file__).parents[2] / "README.md").read_text()


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


def test_every_option_has_an_environment_variable() -> None:
    options = [option for option in cli.run.params if isinstance(option, click.Option) and option.name != "help"]

    assert {option.envvar for option in options} == {
        "S3BULKCOPY_" + option.opts[0].removeprefix("--").replace("-", "_").upper() for option in options
    }
