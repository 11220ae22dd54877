"""Request files that others leave in a folder or a bucket."""

import hashlib
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_file
from genrec_core.storage.object_store import ObjectStore

_UNFINISHED = (".part", ".tmp", ".partial", ".crdownload")


@dataclass(frozen=True)
class RequestFile:
    """A file of requests; ``stamp`` is the time of change in nanoseconds, or the ETag of an object."""

    name: str
    size: int
    stamp: str

    @property
    def key(self) -> str:
        """The name of this file with this content as a partition and as a folder: its name and a hash."""
        content = f"{self.name}\n{self.size}\n{self.stamp}".encode("utf-8", errors="surrogateescape")
        readable = re.sub(r"\.{2,}|[^A-Za-z0-9._-]+", "_", self.name)[:80]
        return f"{readable}-{hashlib.sha256(content).hexdigest()[:12]}"


@dataclass(frozen=True)
class FolderInbox:
    """A folder. A file is complete if it did not change for ``settle_seconds``.

    Sub-folders, links, dot-files and names that end like an unfinished download are passed over.
    """

    folder: Path
    settle_seconds: float = 10.0

    def files(self) -> list[RequestFile]:
        """The complete files, by name."""
        try:
            paths = sorted(self.folder.iterdir())
        except OSError as error:
            raise GenrecError(f"{self.folder}: no inbox ({error.strerror or error}); create the folder") from error
        oldest = time.time_ns() - int(self.settle_seconds * 1e9)
        wanted = [path for path in paths if _is_wanted(path.name) and path.is_file() and not path.is_symlink()]
        files = [file for path in wanted if (file := _file(path)) is not None]
        return [file for file in files if int(file.stamp) <= oldest]

    def fetch(self, file: RequestFile, target: Path) -> None:
        """Copy a file whole to ``target``; it is an error if it has changed since it was listed."""
        source = self.folder / file.name
        if Path(file.name).name != file.name:
            raise GenrecError(f"{file.name!r} is no name of a file in {self.folder}; list the inbox again")
        with atomic_file(target) as part:
            if _file(source) == file:
                shutil.copyfile(source, part, follow_symlinks=False)
            if _file(source) != file:
                raise GenrecError(_changed(str(source)))


@dataclass(frozen=True)
class ObjectInbox:
    """A prefix of a bucket, where objects appear whole. It passes over the same names as :class:`FolderInbox`."""

    store: ObjectStore

    def files(self) -> list[RequestFile]:
        """The objects, by name."""
        listed = sorted(self.store.listing().items())
        return [RequestFile(name, facts.size, facts.stamp) for name, facts in listed if _is_wanted(name)]

    def fetch(self, file: RequestFile, target: Path) -> None:
        """Copy an object whole to ``target``; it is an error if it has changed since it was listed."""
        with atomic_file(target) as part:
            self.store.download(file.name, part)
            facts = self.store.listing(file.name).get(file.name)
            if facts is None or (facts.size, facts.stamp) != (file.size, file.stamp):
                raise GenrecError(_changed(f"{self.store.url}/{file.name}"))


Inbox = FolderInbox | ObjectInbox


def find_file(inbox: Inbox, key: str) -> RequestFile:
    """The file of an inbox that has ``key``."""
    for file in inbox.files():
        if file.key == key:
            return file
    raise GenrecError(f"no file of the inbox is {key} any more: it was removed or changed; put it there again")


def _changed(place: str) -> str:
    return f"{place}: gone, or changed since it was seen; a new content is served as a file of its own"


def _is_wanted(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".") and not name.lower().endswith(_UNFINISHED)


def _file(path: Path) -> RequestFile | None:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return RequestFile(path.name, facts.st_size, str(facts.st_mtime_ns))
