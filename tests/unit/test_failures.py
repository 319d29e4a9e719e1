"""What failed of a run: as a file keeps it, and what is said about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3bulkcopy.errors import UsageError
from s3bulkcopy.failures import Header, advice, read, read_header, write
from s3bulkcopy.tally import RangeFailure
from s3bulkcopy.worker.model import Failure, Job, Location, Range

if TYPE_CHECKING:
    from pathlib import Path

JOB = Job("run", Location("a", "ø/", "r", "http://x/a"), Location("b", "", "r", "http://x/b"), overwrite=False, batch_keys=7)
HEADER = Header("run", "lambda", JOB, (("region", "r"),))

texts = st.text(st.characters(codec=None), max_size=20)
failed = st.lists(
    st.builds(Failure, texts, st.integers(0, 2**45), texts, texts)
    | st.builds(RangeFailure, st.builds(Range, texts, st.none() | texts), texts)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(failed)
def test_what_was_written_is_read_back_whatever_the_keys(tmp_path: Path, several: list[Failure | RangeFailure]) -> None:
    path = tmp_path / "failures"

    assert write(path, HEADER, iter(several)) == len(several)
    assert [*read(path)] == several
    assert read_header(path) == HEADER


def test_the_first_line_tells_people_and_programs_what_it_is_about(tmp_path: Path) -> None:
    write(tmp_path / "f", HEADER, [Failure("k", 1, "AccessDenied", "no")])

    head, line = map(json.loads, (tmp_path / "f").read_text().splitlines())
    assert [head[name] for name in ("run_id", "source", "destination")] == ["run", "s3://a/ø/", "s3://b"]
    assert line["key"] == "k"
    assert line["advice"] == advice("AccessDenied")


def test_a_file_is_replaced_only_once_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("before")

    def breaks() -> list[Failure]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(path, HEADER, (one for _ in range(1) for one in breaks()))
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not a file of failures"),
        ("[]", "is not a file of failures"),
        ('{"key": "a"}', "is not a file of failures"),
        ('{"s3bulkcopy": "failures", "format": 9}', "has format 9"),
        ('{"s3bulkcopy": "failures", "format": 1, "run_id": "r"}', "is not a file of failures"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "f").write_text(content)

    with pytest.raises(UsageError, match=words):
        read_header(tmp_path / "f")


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '"\xff"', '{"key": 1, "size": 1, "code": "", "cause": ""}', '{"after": "a", "until": 3}']
)
def test_a_line_that_is_no_failure_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path / "f", HEADER, [Failure("k", 1, "c", "")])
    with (tmp_path / "f").open("a", encoding="latin-1") as file:
        file.write(line + "\n")

    with pytest.raises(UsageError, match="line 3, is no failure"):
        list(read(tmp_path / "f"))


def test_a_code_that_nobody_knows_is_worth_a_retry() -> None:
    assert advice("Whatever") == "retry it"
