"""What each filter lets in: the table of docs/filters.md, as data."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Options, an object below SRC's prefix, and whether it is copied."""

    options: str
    key: str
    copied: bool
    size: str = "1"
    modified: str = "2026-01-31T12:00:00Z"
    storage_class: str = "STANDARD"

    def line(self) -> str:
        """Write the row as the document has it."""
        options = f"`{self.options}`" if self.options else ""
        cells = (options, f"`{self.key}`", self.size, self.modified, self.storage_class, "yes" if self.copied else "no")
        return f"| {' | '.join(cells)} |"


ROWS = [
    Row("", "a.jpg", copied=True),
    Row("--include '*.jpg'", "a.jpg", copied=True),
    Row("--include '*.jpg'", "b/c/a.jpg", copied=True),
    Row("--include '*.jpg'", "a.jpg.txt", copied=False),
    Row("--include '*.jpg'", "A.JPG", copied=False),
    Row("--include 'a.jpg'", "b/a.jpg", copied=False),
    Row("--exclude '*.jpg'", "a.jpg", copied=False),
    Row("--exclude '*.jpg'", "a.txt", copied=True),
    Row("--exclude '*' --include '*.jpg'", "a.jpg", copied=True),
    Row("--exclude '*' --include '*.jpg'", "a.txt", copied=False),
    Row("--include '*.jpg' --exclude '*'", "a.jpg", copied=False),
    Row("--include '*.jpg' --exclude 'tmp/*'", "tmp/a.jpg", copied=False),
    Row("--include '*.jpg' --exclude 'tmp/*'", "tmp/a.txt", copied=False),
    Row("--include '*.jpg' --exclude 'tmp/*'", "a.txt", copied=False),
    Row("--exclude 'tmp/*' --include '*.jpg'", "tmp/a.jpg", copied=True),
    Row("--exclude 'tmp/*' --include '*.jpg'", "a.txt", copied=True),
    Row("--exclude 'tmp/*' --include 'tmp/a*' --exclude '*b'", "tmp/ab", copied=False),
    Row("--include 'logs/*'", "logs/2026/a", copied=True),
    Row("--include 'logs/**'", "logs/2026/a", copied=True),
    Row("--include 'logs/*/a'", "logs/2026/01/a", copied=True),
    Row("--include 'logs/**/a'", "logs/a", copied=False),
    Row("--include 'logs/*'", "logs/", copied=True),
    Row("--include 'logs'", "logs/a", copied=False),
    Row("--include '?.txt'", "a.txt", copied=True),
    Row("--include '?.txt'", "ab.txt", copied=False),
    Row("--include 'a?b'", "a/b", copied=True),
    Row("--include '[a-c]?'", "b1", copied=True),
    Row("--include '[a-c]?'", "d1", copied=False),
    Row("--include '[!a-c]?'", "d1", copied=True),
    Row("--include '[^a-c]?'", "a1", copied=False),
    Row("--include '[]x]'", "]", copied=True),
    Row("--include '[*]'", "*", copied=True),
    Row("--include '[*]'", "a", copied=False),
    Row("--include 'a.b'", "axb", copied=False),
    Row("--include '日*'", "日本", copied=True),
    Row("--filter-regex '[0-9]{4}'", "logs/2026", copied=True),
    Row("--filter-regex '^[0-9]{4}'", "logs/2026", copied=False),
    Row("--filter-regex '2026' --exclude '*.tmp'", "2026.tmp", copied=False),
    Row("--min-size 10KiB", "a", copied=True, size="10240"),
    Row("--min-size 10KiB", "a", copied=False, size="10239"),
    Row("--max-size 10KB", "a", copied=True, size="10000"),
    Row("--max-size 10KB", "a", copied=False, size="10001"),
    Row("--max-size 0", "a", copied=True, size="0"),
    Row("--min-size 1 --max-size 2 --include 'b'", "a", copied=False, size="2"),
    Row("--newer-than 2026-01-31", "a", copied=True, modified="2026-01-31T00:00:00Z"),
    Row("--newer-than 2026-01-31", "a", copied=False, modified="2026-01-30T23:59:59.999Z"),
    Row("--older-than 2026-01-31", "a", copied=False, modified="2026-01-31T00:00:00.000Z"),
    Row("--older-than 2026-01-31", "a", copied=True, modified="2026-01-30T23:59:59Z"),
    Row("--older-than 2026-01-31T01:00:00+01:00", "a", copied=True, modified="2026-01-30T23:59:59Z"),
    Row("--newer-than 7d", "a", copied=False, modified="2020-01-01T00:00:00Z"),
    Row("--older-than 7d", "a", copied=True, modified="2020-01-01T00:00:00Z"),
    Row("--source-storage-class STANDARD_IA", "a", copied=False),
    Row("--source-storage-class standard_ia", "a", copied=True, storage_class="STANDARD_IA"),
    Row("--source-storage-class STANDARD", "a", copied=True, storage_class=""),
    Row("--source-storage-class GLACIER --source-storage-class STANDARD", "a", copied=True),
]
