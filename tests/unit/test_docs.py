"""What the README says is what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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


def help_of(*command: str) -> str:
    return CliRunner().invoke(cli.cli, [*command, "--help"], terminal_width=80).stdout


def test_the_help_of_run_shows_every_option_under_a_heading() -> None:
    sections = re.split(r"^(\S.*):\n", help_of("run"), flags=re.MULTILINE)

    headings = ["What to copy", "How copies look", "Engine and speed", "Lambda engine", "Trying and stopping"]
    assert sections[1::2] == [*headings, "AWS and credentials", "Output and help"]
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", "".join(sections[2::2]), re.MULTILINE)
    given = {name for option in cli.run.params if isinstance(option, click.Option) for name in option.opts}
    assert sorted(shown) == sorted({name for name in given if name.startswith("--")} | {"--help"})


def test_the_examples_in_the_help_of_run_are_understood() -> None:
    examples = help_of("run").split("Examples:\n")[1].splitlines()

    assert len(examples) == 3
    for example in examples:
        program, name, *arguments = shlex.split(example)
        assert (program, name) == ("s3bulkcopy", "run")
        cli.run.make_context(name, arguments)


@pytest.mark.parametrize("name", cli.cli.commands)
def test_what_a_command_does_is_said_in_one_line_that_is_not_cut_off(name: str) -> None:
    summary = (cli.cli.commands[name].help or "").splitlines()[0]

    assert re.search(rf"^  {name} +{re.escape(summary)}$", help_of(), re.MULTILINE)
