"""What a run has heard, on this machine's disk: events count once they are here, and a command that was killed goes on.

A journal is one SQLite database for each run, held by one process at a time. Events are appended as they come. Now and then
the tally takes their place, so that a journal does not grow with the run; only failures do, which are rows of their own and
never all in memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from s3bulkcopy.errors import JournalDamaged, JournalForeign, JournalHeld, JournalMissing, JournalUnusable, cause_of
from s3bulkcopy.tally import RangeFailure, Tally
from s3bulkcopy.worker.model import (
    WIRE_VERSION,
    CopyTask,
    Counts,
    Dead,
    Done,
    Failure,
    Fatal,
    Listing,
    ListTask,
    Nothing,
    PartTask,
    Trouble,
    WalkTask,
    decode_event,
    decode_task,
    encode_event,
    encode_task,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from s3bulkcopy.worker.model import Event, Job, Task

#: What tells a journal from another database, and one format of it, which is that of the messages in it, too, from another.
_APPLICATION_ID = 0x53334243  # "S3BC"
FORMAT = 100 + WIRE_VERSION

#: Events after which the tally takes their place: so many, and this part of what it keeps, which is all written anew.
COMPACT_AFTER = 20_000
_COMPACT_PART = 10

#: What SQLite says of a file that is no journal, or not a whole one; all else that it says is the machine's trouble.
_SQLITE_DAMAGE = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: The code of what was lost with its task.
DEAD_LETTER = "DeadLetter"

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE failures (
    task TEXT, nonce TEXT, place INTEGER, body TEXT NOT NULL, PRIMARY KEY (task, nonce, place)) WITHOUT ROWID;
CREATE TABLE tasks (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE roots (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
"""

#: How long a journal is kept that nobody has written since, in seconds: 30 days, after which SQS has nothing of a run in AWS
#: any more (14 days of retention); and 90 days where the local engine could still go on with its run.
KEPT_SECONDS = 30 * 24 * 3600.0
UNENDED_KEPT_SECONDS = 90 * 24 * 3600.0


def state_folder() -> Path:
    """Give the folder for what is to outlive a command on this machine: S3BULKCOPY_STATE_DIR, or the platform's own."""
    if own := os.environ.get("S3BULKCOPY_STATE_DIR"):
        return Path(own)
    home = Path.home()
    match sys.platform:
        case "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        case "darwin":
            base = home / "Library" / "Application Support"
        case _:
            base = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    return base / "s3bulkcopy"


def journal_path(run_id: str) -> Path:
    """Give where the journal of a run is, if there is one."""
    return state_folder() / "runs" / f"{run_id}.journal"


def makeshift_path(run_id: str) -> Path:
    """Give where the journal of a run is if the state folder could not be written; raises JournalUnusable where others may."""
    folder = Path(tempfile.gettempdir()) / f"s3bulkcopy-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise JournalUnusable(f"{folder} is not ours alone", hint="remove it, or name a folder in S3BULKCOPY_STATE_DIR")
    return folder / f"{run_id}.journal"


def find_journal(run_id: str) -> Path:
    """Give where the journal of a run is: the path at which it should be if it is nowhere."""
    usual = journal_path(run_id)
    if usual.exists():
        return usual
    with suppress(JournalUnusable, OSError):
        if (makeshift := makeshift_path(run_id)).exists():
            return makeshift
    return usual


def forget_old(now: float) -> list[str]:
    """Remove the journals that were last written long before `now` (seconds since the epoch); gives the runs' ids.

    What is held by a process, or not to be read, stays; what was set aside as damaged goes, too.
    """
    gone = []
    folder = state_folder() / "runs"
    for path in sorted(folder.glob("*.journal")):
        with suppress(OSError, sqlite3.Error, JournalUnusable):
            age = now - written_at(path)
            if age < KEPT_SECONDS:
                continue
            with Journal.resume(path) as journal:
                facts = journal.facts
                if age < UNENDED_KEPT_SECONDS and facts.ended is None and facts.engine == "local":
                    continue
                for name in (*_files(path), path.with_suffix(".lock")):
                    name.unlink(missing_ok=True)
            gone.append(path.stem)
    for path in sorted(folder.glob("*.damaged")):
        with suppress(OSError):
            if now - written_at(path) >= KEPT_SECONDS:
                path.unlink()
                gone.append(path.stem)
    return gone


def _files(path: Path) -> list[Path]:
    """Give the files of a journal: SQLite may have two beside it."""
    return [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]


def written_at(path: Path) -> float:
    """Give when a journal was last written, in seconds since the epoch; raises OSError where it is not there."""
    wal = path.with_name(path.name + "-wal")
    return max(one.stat().st_mtime for one in (path, wal) if one is path or (wal.exists() and wal.stat().st_size))


def last_retry(run_id: str) -> str:
    """Give the run that did again all that had failed of a run, and so on to the last whose journal is on this machine."""
    last, seen = run_id, set[str]()
    while last not in seen and find_journal(last).exists():
        seen.add(last)
        with Journal.resume(find_journal(last), to_write=False) as journal:
            by = str(journal.facts.settings.get("retried_by", last))
        last = by if find_journal(by).exists() else last
    return last


def _is_held(path: Path) -> bool:
    try:
        _hold(path).close()
    except JournalHeld:
        return True
    return False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run is: enough to go on with it, or to do again what failed of it."""

    run_id: str
    engine: str
    #: The job as a message has it (`encode_task` of the first root), so that every rule of it comes along.
    roots: tuple[str, ...] = ()
    #: Whether all roots are known to be queued.
    submitted: bool = False
    #: How the run ended, as its exit code says it; None while it goes on.
    ended: int | None = None
    version: str = ""
    #: Options that reach the same account: region, profile, endpoint.
    aws: tuple[tuple[str, str], ...] = ()
    #: Roots that are in rows of their own, since there may be very many.
    more_roots: int = 0
    #: What else was asked for: what a command that goes on with the run heeds, too.
    settings: dict[str, Any] = field(default_factory=dict)
    #: When the run's reports were last listened to, in seconds since the epoch; 0 where they never were.
    watched: float = 0.0

    @property
    def has_roots(self) -> bool:
        """Tell whether the work was about to be queued."""
        return bool(self.roots) or self.more_roots > 0


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A run of the local engine, as its journal on this machine tells of it."""

    facts: Facts
    #: None where it had not begun to copy.
    job: Job | None
    #: What was reported so far, and is under way.
    counts: Counts
    #: Whether a process carries it on.
    is_held: bool


def local_runs() -> list[LocalRun]:
    """Give the runs of the local engine that have begun on this machine and not ended, the oldest first."""
    found = []
    for path in sorted((state_folder() / "runs").glob("*.journal")):
        with suppress(OSError, sqlite3.Error, JournalUnusable), Journal.resume(path, to_write=False) as journal:
            facts = journal.facts
            if facts.engine == "local" and facts.has_roots and facts.ended is None:
                found.append(_local_run(journal, path))
    return found


def local_run(run_id: str) -> LocalRun | None:
    """Give a run of the local engine, also one that has ended; None where no journal on this machine tells of such a run."""
    path = find_journal(run_id)
    with suppress(OSError, sqlite3.Error, JournalUnusable), Journal.resume(path, to_write=False) as journal:
        if journal.facts.engine == "local":
            return _local_run(journal, path)
    return None


def _local_run(journal: Journal, path: Path) -> LocalRun:
    with journal.steady():
        job = journal.job() if journal.facts.has_roots else None
        tally, is_held = journal.replay(), _is_held(path)
        if is_held:
            tally.under_way = journal.under_way()
        return LocalRun(journal.facts, job, tally.snapshot().seen, is_held)


class Journal:
    """The journal of one run; closing it lets another process have it."""

    def __init__(
        self, database: sqlite3.Connection, facts: Facts, path: Path | None = None, lock: IO[str] | None = None
    ) -> None:
        """Take over a database that is open; see `create`, `resume` and `in_memory`. `lock` says that it is ours to write."""
        self._database, self._path, self._lock = database, path, lock
        self._since = 0
        self._under_way: Counts | None = None
        self.facts = facts

    @classmethod
    def in_memory(cls, facts: Facts) -> Self:
        """Begin a journal that ends with the process."""
        return cls(_begun(":memory:"), facts)

    @classmethod
    def create(cls, path: Path, facts: Facts) -> Self:
        """Begin the journal of a new run; raises JournalUnusable where that cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _hold(path)
            database = _begun(str(path))
            _set_durable(database, facts)
        except (OSError, sqlite3.Error) as error:
            hint = "S3BULKCOPY_STATE_DIR names another folder for it"
            raise JournalUnusable(f"cannot keep a journal in {path}: {cause_of(error)}", hint) from error
        journal = cls(database, facts, path, lock)
        journal.note(facts)
        return journal

    @classmethod
    def resume(cls, path: Path, *, to_write: bool = True) -> Self:
        """Open the journal of an earlier run; raises JournalUnusable where it is not there, foreign, damaged or held.

        One that is only to be read may be held by another process.
        """
        if not path.exists():
            raise JournalMissing(
                f"there is no journal of that run on this machine ({path})",
                hint="it is on the machine where the run was started",
            )
        with ExitStack() as opened:
            try:
                lock = opened.enter_context(_hold(path)) if to_write else None
                database = opened.enter_context(closing(_connect(str(path))))
                _check(database, path)
                journal = cls(database, _facts(json.loads(_fact(database, "run") or "")), path, lock)
                _set_durable(database, journal.facts)
                if to_write:
                    journal._forget_under_way()
            except (OSError, sqlite3.Error, ValueError, KeyError, TypeError) as error:
                raise _unreadable(path, error) from error
            opened.pop_all()
        return journal

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self._database.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def outlives(self) -> bool:
        """Tell whether it is there for later commands."""
        return self._path is not None

    # -------------------------------------------------------------------------------------------------------- writing

    def note(self, facts: Facts) -> None:
        """Take down what the run is now; durable when this returns."""
        with self._writing():
            self._put("run", to_json(asdict(facts)))
        self.facts = facts

    def _forget_under_way(self) -> None:
        """Forget what whoever held this before had under way: it ended with them."""
        with suppress(sqlite3.Error), self._database:  # a full disk keeps nobody from reading
            self._database.execute("DELETE FROM facts WHERE name = 'under_way'")

    def append(self, events: Sequence[Event], under_way: Counts | None = None) -> None:
        """Take down events; durable when this returns.

        `under_way` is what tasks that have not ended have achieved beside them, for others to see.
        """
        if not events and under_way == self._under_way:
            return
        with self._writing():
            if under_way != self._under_way:
                self._put("under_way", to_json(under_way or Counts()))
                self._under_way = under_way
            for event in events:
                self._database.executemany("INSERT OR IGNORE INTO failures VALUES (?, ?, ?, ?)", _failure_rows(event))
            texts = ((_event_text(event),) for event in events)
            self._database.executemany("INSERT INTO events (body) VALUES (?)", texts)
            ended = ((event.id,) for event in events if isinstance(event, (Done, Dead)))
            self._database.executemany("DELETE FROM tasks WHERE id = ?", ended)
        self._since += len(events)

    def compact_into(self, tally: Tally) -> None:
        """Keep a tally, which counts all events so far, in their place, once they are many."""
        if self._since >= max(COMPACT_AFTER, tally.size // _COMPACT_PART):
            with self._writing():
                self._put("tally", to_json(tally.dump()))
                self._database.execute("DELETE FROM events")
            self._since = 0

    def keep_roots(self, bodies: Iterable[str]) -> int:
        """Take down roots, as messages, in place of those that are there; gives how many. `note` is to say how many, too."""
        with self._writing():
            self._database.execute("DELETE FROM roots")
            self._database.executemany("INSERT INTO roots (body) VALUES (?)", ((body,) for body in bodies))
            (number,) = self._database.execute("SELECT count(*) FROM roots").fetchone()
        return int(number)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Write in one transaction; raises JournalUnusable where that cannot be done."""
        try:
            with self._database:
                yield
        except sqlite3.Error as error:
            raise JournalUnusable(f"cannot write the journal {self._path}: {error}", "make room if the disk is full") from error

    def _put(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # -------------------------------------------------------------------------------------------------------- reading

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Read all of it as it is now, whatever another process writes meanwhile."""
        self._database.execute("BEGIN")
        try:
            yield
        finally:
            self._database.rollback()

    def under_way(self) -> Counts:
        """Give what was taken down last of tasks that had not ended; of no use once nobody holds this."""
        text = _fact(self._database, "under_way")
        return Counts(*json.loads(text)) if text else Counts()

    def roots(self) -> Iterator[Task]:
        """Give the tasks with which the run begins; raises JournalUnusable where they cannot be read."""
        try:
            yield from map(_read_task, self.facts.roots)
            with closing(
                self._database.execute("SELECT body FROM roots ORDER BY number LIMIT ?", (self.facts.more_roots,))
            ) as rows:
                for (body,) in rows:
                    yield _read_task(body)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _unreadable(self._path, error) from error

    def job(self) -> Job:
        """Give the job, which every root has; raises JournalUnusable where nothing was about to be queued."""
        for task in self.roots():
            return task.job
        if (rules := self.facts.settings.get("job")) is not None:  # a run that was taken over
            return _read_task(rules).job
        raise JournalUnusable(
            f"nothing of run {self.facts.run_id} was queued before it was killed",
            hint=f"there is nothing to go on with; `s3bulkcopy teardown {self.facts.run_id}` removes what was made of it",
        )

    def replay(self) -> Tally:
        """Give the tally of all events so far; raises JournalUnusable where they cannot be read."""
        try:
            text = _fact(self._database, "tally")
            tally = Tally.load(json.loads(text)) if text else Tally()
            if not text and self.facts.has_roots:
                tally.announce(self.facts.run_id, len(self.facts.roots) + self.facts.more_roots + 1)
            with closing(self._database.execute("SELECT body FROM events ORDER BY number")) as rows:
                for (body,) in rows:
                    self._since += 1
                    tally.add([_read_event(body)])
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise _unreadable(self._path, error) from error
        return tally

    def failures(self, tally: Tally) -> Iterator[Failure]:
        """Give every object that a tally counts as failed, or may count while it is not complete, in the order of tasks."""
        for task, nonce, row in self._failed(tally):
            if isinstance(row, list):
                key, size, code, cause = row
                if code == DEAD_LETTER and not nonce:
                    cause = f"its task died ({tally.last_word(task)}); may have been copied"
                yield Failure(key, size, code, cause)

    def failed_ranges(self, tally: Tally) -> Iterator[RangeFailure]:
        """Give every range that a tally counts as not listed to its end."""
        for task, _, row in self._failed(tally):
            if isinstance(row, dict):
                dead = _read_task(row["task"])
                if isinstance(dead, Listing):
                    yield from (RangeFailure(piece, tally.last_word(task)) for piece in dead.ranges)

    def _failed(self, tally: Tally) -> Iterator[tuple[str, str, Any]]:
        try:
            with closing(self._database.execute("SELECT task, nonce, body FROM failures ORDER BY task, nonce, place")) as rows:
                for task, nonce, body in rows:
                    if tally.may_count(task, nonce):
                        yield task, nonce, json.loads(body)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _unreadable(self._path, error) from error

    def kept_tasks(self, tally: Tally) -> list[Task]:
        """Give the tasks that were kept, that a tally waits for, and forget all others; raises JournalUnusable.

        Nobody works on any when this is called, so that what nobody has announced by now is an orphan.
        """
        try:
            with closing(self._database.execute("SELECT id, body FROM tasks")) as rows:
                kept = {name: body for name, body in rows if tally.waits_for(name)}
            tasks = [_read_task(body) for body in kept.values()]
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise _unreadable(self._path, error) from error
        with self._writing():
            self._database.execute("DELETE FROM tasks")
            self._database.executemany("INSERT INTO tasks VALUES (?, ?)", kept.items())
        return tasks

    def kept_task(self, task_id: str) -> str | None:
        """Give a task that is kept, as a message."""
        row = self._database.execute("SELECT body FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return str(row[0]) if row else None

    def keep_tasks(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Keep tasks (id and message) whose only other copy is in memory, until an event that ends them is appended."""
        with self._writing():
            self._database.executemany("INSERT OR REPLACE INTO tasks VALUES (?, ?)", tasks)


def _hold(path: Path) -> IO[str]:
    """Take the lock of a journal, which ends with the process; raises JournalUnusable where another process has it."""
    opened = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    lock = os.fdopen(opened, "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        hint = "only one command at a time can count a run; `s3bulkcopy status RUN_ID --watch` looks on"
        raise JournalHeld(f"another process has the journal {path}", hint) from error
    return lock


def _set_durable(database: sqlite3.Connection, facts: Facts) -> None:
    """Have what is written reach the disk at once, as what SQS has forgotten must.

    The local engine's events and tasks are all here: should the machine itself fail, an earlier state of both will do.
    """
    database.execute(f"PRAGMA synchronous = {'NORMAL' if facts.engine == 'local' else 'FULL'}")


def _begun(name: str) -> sqlite3.Connection:
    database = _connect(name)
    database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {FORMAT}")
    database.executescript(_SCHEMA)
    return database


def _connect(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, timeout=5.0)
    try:
        database.execute("PRAGMA page_size = 32768")  # tasks have some 64 KiB
        database.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection, path: Path) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise JournalDamaged(f"{path} is no journal of s3bulkcopy")
    if version != FORMAT:
        raise JournalForeign(
            f"{path} has format {version}, and this version of s3bulkcopy reads {FORMAT}",
            hint="go on with the version that began the run, or tear the run down",
        )
    if (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _damaged(path, found)


def _unreadable(path: Path | None, error: Exception) -> JournalUnusable:
    """Tell a journal that is damaged from a machine that cannot read it, for now: its disk may be full."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if not isinstance(error, OSError) and code in _SQLITE_DAMAGE:
        return _damaged(path, error)
    return JournalUnusable(f"cannot read the journal {path}: {error}", "make room if the disk is full; see who may write there")


def _damaged(path: Path | None, why: object) -> JournalDamaged:
    hint = (
        "a run of the lambda engine is not affected: `attach RUN_ID --take-over` counts what the reports still hold; "
        "one of the local engine has to be begun anew"
    )
    return JournalDamaged(f"the journal {path} is damaged: {why}", hint)


def _fact(database: sqlite3.Connection, name: str) -> str | None:
    row = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def _facts(data: dict[str, Any]) -> Facts:
    return Facts(**{**data, "roots": tuple(data["roots"]), "aws": tuple((name, value) for name, value in data["aws"])})


def _event_text(event: Event) -> str:
    """Write an event; failures have rows of their own."""
    match event:
        case Dead():
            return to_json({"t": "dead", "task": encode_task(event.task)})
        case Done():
            return encode_event(event._replace(failures=()))
        case Trouble() | Fatal():
            return encode_event(event)


def _read_event(body: str) -> Event:
    data = json.loads(body)
    if data["t"] == "dead":
        task = _read_task(data["task"])
        return Dead(task.id, task)
    event = decode_event(body)
    if isinstance(event, Nothing):
        raise TypeError("an event of nothing")
    return event


def _read_task(body: str) -> Task:
    task = decode_task(body)
    if isinstance(task, Nothing):
        raise TypeError("a task that asks for nothing")
    return task


def _failure_rows(event: Event) -> Iterator[tuple[str, str, int, str]]:
    """Give what failed with an attempt, or with a task that died, which has no nonce."""
    match event:
        case Done(name, attempt, _, _, failures):
            yield from ((name, attempt.nonce, n, to_json(failure)) for n, failure in enumerate(failures))
        case Dead(name, ListTask() | WalkTask() as task):
            yield name, "", 0, to_json({"task": encode_task(task)})
        case Dead(name, CopyTask() | PartTask() as task):
            yield from ((name, "", n, to_json((item.key, item.size, DEAD_LETTER, ""))) for n, item in enumerate(task.items))
