"""The folder of a disk cache: entries, the limit, and the locks between processes.

Stands below `storage.cache`.  Invariant: an entry has its name only when it is complete, and
everything that is held for a process (locks, files under way) the kernel gives back when the
process ends, however it ends.

    folder/iopipe-cache      says that the folder is ours: nothing else in it is ever removed
    folder/locks             byte 0: the limit; byte n: whoever fills the entries of hash n
    folder/used              bytes of all entries, never less than the truth
    folder/3f/3fa4...e1-12   an entry: content, then 32 bytes (magic, length, two XXH3-64)

Locks are open file description locks (fcntl(2)): they end with the process at the latest.  An
entry is written without a name (O_TMPFILE, open(2)) and linked when it is complete, so that a
process killed before that leaves nothing.  Readers hold a shared flock(2) on the entry that they
read; an entry that somebody holds is not evicted.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from iopipe.errors import StorageError
from iopipe.storage.cache_entry import TRAILER_BYTES, Entry, is_whole, write_entry

_MARK = "iopipe-cache"
_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, process."""
_ENTRY = re.compile(r"[0-9a-f]{32}-[0-9]+")
_LOW_WATER = 0.95
"""How full an eviction leaves the cache: each one looks at every entry, so they must be rare."""
_UNKNOWN = 1 << 62
"""More than any limit: whoever publishes next counts again."""
_TOUCH_SECONDS = 10.0
"""How exactly the order of use is kept: an entry is not touched more often than that."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """An entry as an eviction sees it; sorted, the one used longest ago comes first."""

    used_at_ns: int
    num_bytes: int
    path: str


class CacheFolder:
    """Entries by name, of all processes together at most `max_bytes`; thread-safe."""

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int) -> None:
        self.path = os.path.abspath(folder)
        self._max_bytes = max_bytes
        self._verified: dict[str, tuple[int, int]] = {}
        """Inode and time of change of what this process has compared with its checksum."""
        _prepare(self.path)
        self._locks = os.path.join(self.path, "locks")
        self.num_damaged = 0

    # ---- reading -----------------------------------------------------------------------

    def open(self, name: str) -> Entry | None:
        """The entry, whole and verified; None where there is none.  A damaged one is removed."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        entry = Entry(descriptor)
        try:
            is_there = self._checked(name, path, descriptor)
        except BaseException:
            entry.close()
            raise
        if not is_there:
            entry.close()
            return None
        return entry

    def _checked(self, name: str, path: str, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # it is being evicted
        about = os.fstat(descriptor)
        if about.st_nlink == 0:
            return False
        if self._verified.get(name) != (about.st_ino, about.st_ctime_ns):
            if not is_whole(name, descriptor, about.st_size):
                self._drop_damaged(path, about.st_ino)
                return False
        if time.time() - about.st_mtime > _TOUCH_SECONDS:
            os.utime(descriptor)
            about = os.fstat(descriptor)
        self._verified[name] = about.st_ino, about.st_ctime_ns
        return True

    def _drop_damaged(self, path: str, inode: int) -> None:
        """Others may hold it: they have the descriptor that they need."""
        with self._limit() as used, suppress(FileNotFoundError):
            about = os.stat(path)
            if about.st_ino == inode:
                os.unlink(path)
                used.set(_UNKNOWN)  # it may not have the size that was counted
                self.num_damaged += 1

    # ---- filling -----------------------------------------------------------------------

    @contextmanager
    def filling(self, name: str, *, patience_seconds: float) -> Iterator[bool]:
        """True while nobody else fills this entry; False where somebody did so all the time.

        It is the entry's hash that is locked: two entries may have to wait for each other.
        """
        descriptor = os.open(self._locks, os.O_RDWR | os.O_CLOEXEC)
        place = 1 + xxhash.xxh3_64_intdigest(name) % (1 << 62)
        try:
            end, pause = time.monotonic() + patience_seconds, 0.001
            while not (is_ours := _locked(descriptor, place)) and time.monotonic() < end:
                time.sleep(pause)
                pause = min(1.5 * pause, 0.02)
            yield is_ours
        finally:
            _unlock(descriptor)

    def publish(self, name: str, content: memoryview) -> bool:
        """Keep the content under that name; False where all that is kept is in use.

        An `OSError` of the disk goes through: nothing is kept then.
        """
        num_bytes = len(content) + TRAILER_BYTES
        path = self._path(name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(self.path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            write_entry(descriptor, name, content)
            with self._limit() as used:
                if os.path.lexists(path):
                    return True
                if used.num_bytes + num_bytes > self._max_bytes:
                    self._evict(used, num_bytes)
                if used.num_bytes + num_bytes > self._max_bytes:
                    return False
                used.add(num_bytes)  # before the link: killed here, the number is too great
                # A folder to count from makes Python take linkat(2), which follows the link.
                os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
                return True
        finally:
            os.close(descriptor)

    def _evict(self, used: _Used, num_wanted: int) -> None:
        """Remove what was used longest ago and is in nobody's hands."""
        kept = sorted(self._entries(), key=lambda one: one.used_at_ns)
        total = sum(one.num_bytes for one in kept)
        goal = min(self._max_bytes - num_wanted, int(self._max_bytes * _LOW_WATER))
        if total + num_wanted > self._max_bytes:
            for one in kept:
                if total <= goal:
                    break
                if _removed(one.path):
                    total -= one.num_bytes
        used.set(total)

    def _entries(self) -> Iterator[_Kept]:
        for folder in os.scandir(self.path):
            if not (folder.is_dir(follow_symlinks=False) and len(folder.name) == 2):
                continue
            for file in os.scandir(folder.path):
                if _ENTRY.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        about = file.stat(follow_symlinks=False)
                        yield _Kept(about.st_mtime_ns, about.st_size, file.path)

    @contextmanager
    def _limit(self) -> Iterator[_Used]:
        """The number of bytes kept, while nobody else changes it."""
        descriptor = os.open(self._locks, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0))
            with _Used(os.path.join(self.path, "used")) as used:
                yield used
        finally:
            _unlock(descriptor)

    def _path(self, name: str) -> str:
        return os.path.join(self.path, name[:2], name)


class _Used:
    """Bytes of all entries, in a file of eight bytes; a missing one says 'look'."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        found = os.pread(self._descriptor, 8, 0)
        self.num_bytes = int.from_bytes(found, "little") if len(found) == 8 else _UNKNOWN

    def add(self, num_bytes: int) -> None:
        self.set(self.num_bytes + num_bytes)

    def set(self, num_bytes: int) -> None:
        self.num_bytes = max(0, num_bytes)
        os.pwrite(self._descriptor, self.num_bytes.to_bytes(8, "little"), 0)

    def __enter__(self) -> _Used:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _prepare(folder: str) -> None:
    """Make the folder, or see that it is ours."""
    mark = Path(folder, _MARK)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not mark.exists():
            others = sorted(set(os.listdir(folder)) - {_MARK, "locks"})
            if others and not mark.exists():  # another process may have just begun to use it
                raise StorageError(
                    f"{folder!r} holds {others[0]!r} and is no cache: give a folder of its own"
                )
            Path(folder, "locks").touch(mode=0o600)
            mark.touch(mode=0o600)
        if os.stat(folder).st_mode & stat.S_IWOTH:
            raise StorageError(f"{folder!r} can be written to by everybody: chmod o-w it")
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot keep a cache in {folder!r}: {error.strerror}; give a folder on a local disk "
            "(ext4, xfs, btrfs, tmpfs) that may be written to"
        ) from error


def _locked(descriptor: int, place: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, place, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(descriptor: int) -> None:
    """In words, and not by closing alone: a child that was forked meanwhile holds the same open
    file, and the lock with it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, 0, 0, 0))
    finally:
        os.close(descriptor)


def _removed(path: str) -> bool:
    """Remove an entry that nobody holds."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        os.unlink(path)
        return True
    finally:
        os.close(descriptor)
