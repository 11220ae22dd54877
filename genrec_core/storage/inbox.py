"""Request files that others leave in a folder, and how one of them is known again."""

import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_file
from genrec_core.storage.object_store import ObjectStore

_UNFINISHED = (".part", ".tmp", ".partial", ".crdownload")
_SHOWN_NAME = 80  # characters of a file's name that its key keeps


@dataclass(frozen=True)
class RequestFile:
    """A file of requests.

    Args:
        name: its name in the inbox.
        size: bytes.
        stamp: what changes whenever its content may have: time of change, or the ETag of an object.
    """

    name: str
    size: int
    stamp: str

    @property
    def key(self) -> str:
        """What names this file, in this content, as a partition and as a folder: its name and a hash.

        A file that is written anew under the same name gets another key.
        """
        content = f"{self.name}\n{self.size}\n{self.stamp}".encode("utf-8", errors="surrogateescape")
        readable = re.sub(r"\.{2,}|[^A-Za-z0-9._-]+", "_", self.name)[:_SHOWN_NAME]
        return f"{readable}-{hashlib.sha256(content).hexdigest()[:12]}"


class Inbox(Protocol):
    """Where request files arrive: a folder, or a prefix of a bucket."""

    def files(self) -> list[RequestFile]:
        """The files that are complete, by name.

        Raises:
            GenrecError: the inbox cannot be listed.
        """

    def fetch(self, file: RequestFile, target: Path) -> None:
        """Copy a file to ``target``, which appears whole or not at all.

        Raises:
            GenrecError: the file is gone, or is no longer the one that was listed.
        """


@dataclass(frozen=True)
class FolderInbox:
    """A folder; sub-folders, links, dot-files and names that end like an unfinished download are passed over.

    Args:
        folder: where files are put, best by a rename.
        settle_seconds: how long a file must have been left alone to count as complete.
    """

    folder: Path
    settle_seconds: float = 10.0

    def files(self) -> list[RequestFile]:
        """See :meth:`Inbox.files`."""
        try:
            entries = sorted(os.scandir(self.folder), key=lambda entry: entry.name)
        except OSError as error:
            raise GenrecError(f"{self.folder}: no inbox ({error.strerror or error}); create the folder") from error
        found = [(entry, _file(Path(entry.path))) for entry in entries if _is_meant(entry)]
        oldest = time.time_ns() - int(self.settle_seconds * 1e9)
        return [file for _, file in found if file is not None and int(file.stamp) <= oldest]

    def fetch(self, file: RequestFile, target: Path) -> None:
        """See :meth:`Inbox.fetch`."""
        source = self.folder / file.name
        if Path(file.name).name != file.name:
            raise GenrecError(f"{file.name!r} is no name of a file in {self.folder}")
        with atomic_file(target) as part:
            if _file(source) == file:
                shutil.copyfile(source, part, follow_symlinks=False)
            if _file(source) != file:
                raise GenrecError(
                    f"{source}: gone, or changed since it was seen; what is there now is served by itself"
                )


@dataclass(frozen=True)
class ObjectInbox:
    """A prefix of a bucket; names with a further ``/``, dot-files and names of unfinished downloads are passed over.

    Args:
        store: the prefix. Objects appear there whole, so none has to settle.
    """

    store: ObjectStore

    def files(self) -> list[RequestFile]:
        """See :meth:`Inbox.files`."""
        listed = sorted(self.store.listing().items())
        return [RequestFile(name, facts.size, facts.stamp) for name, facts in listed if _is_meant_name(name)]

    def fetch(self, file: RequestFile, target: Path) -> None:
        """See :meth:`Inbox.fetch`."""
        with atomic_file(target) as part:
            self.store.download(file.name, part)
            facts = self.store.listing(file.name).get(file.name)
            if facts is None or (facts.size, facts.stamp) != (file.size, file.stamp):
                raise GenrecError(
                    f"{self.store.url}/{file.name}: gone, or changed since it was seen; what is there now is served "
                    "by itself"
                )


def find_file(inbox: Inbox, key: str) -> RequestFile:
    """The file of an inbox that has ``key``.

    Raises:
        GenrecError: there is none any more.
    """
    for file in inbox.files():
        if file.key == key:
            return file
    raise GenrecError(f"no file of the inbox is {key} any more: it was removed or changed; put it there again")


def _is_meant(entry: "os.DirEntry[str]") -> bool:
    return _is_meant_name(entry.name) and entry.is_file(follow_symlinks=False)


def _is_meant_name(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".") and not name.lower().endswith(_UNFINISHED)


def _file(path: Path) -> RequestFile | None:
    """What is known of a file; None where it has gone."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return None
    return RequestFile(path.name, facts.st_size, str(facts.st_mtime_ns))
