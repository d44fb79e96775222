# cython: language_level=3str
"""One log's part in a commit: a batch, written behind the segment's last record and synced.

Runs in any thread; what it touches belongs to it until the event loop has taken it back. A job
that fails leaves the file as it was.
"""

import os

cimport cython
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t
from posix.unistd cimport fdatasync, ftruncate, pwrite

from shardd.streaming.batch cimport Batch
from shardd.streaming.records cimport checksum_records
from shardd.streaming.segment cimport Segment


def reason_of(error: OSError) -> str:
    """What a publisher is told of it."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"the message could not be stored: {reason}"


@cython.final
cdef class WriteJob:
    """One log's part in a commit."""

    def run(self) -> None:
        """Write, and have it on disk. In any thread."""
        cdef Batch batch = self._batch
        cdef Segment segment = batch.segment
        try:
            if batch.full is not None:
                self._seal(batch.full)
            if segment.is_new:
                self._make(segment)
            elif self._fd < 0:
                self._fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
                self._is_owner = True
            self._write()
            self.error = None
        except OSError as error:
            self.error = error
            self._take_back()
        except MemoryError as error:
            self.error = OSError(str(error))
            self._take_back()
        # With very many channels in one commit, no descriptor outlives its job.
        if self._is_owner and not self._is_kept_open:
            os.close(self._fd)
            self._fd, self._is_owner = -1, False

    def _seal(self, Segment full) -> None:
        """A segment that takes no more is on disk, whatever the options say, before its sidecar
        says so. A sidecar can be made again: its failure is none."""
        if not self._sync:
            fd = os.open(full.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        try:
            full.write_sidecar()
        except OSError:
            return

    def _make(self, Segment segment) -> None:
        """The header is on disk, and the file's name, before the first record is written: so a
        file with a bad header and records in it is damaged, never half made."""
        directory = os.path.dirname(segment.path)
        if not self._has_directory:
            os.makedirs(directory, 0o750, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(segment.path, flags, 0o640)
        self._is_owner = True
        header = segment.header()
        if os.pwrite(self._fd, header, 0) != len(header):
            raise OSError(EIO, os.strerror(EIO))
        if self._sync:
            os.fdatasync(self._fd)
            sync_directory(directory)
            if not self._has_directory:
                sync_directory(os.path.dirname(directory))

    def _write(self) -> None:
        cdef Batch batch = self._batch
        cdef unsigned char* at = batch.bytes
        cdef size_t left = batch.used
        cdef int64_t offset = batch.base
        cdef ssize_t done
        cdef int fd = self._fd
        cdef bint sync = self._sync
        cdef int failed = 0
        size = os.fstat(fd).st_size
        if size < batch.base:
            # Somebody cut it. Writing on would leave a hole where messages were.
            raise OSError(EIO, os.strerror(EIO))
        if size > batch.base:
            # What an earlier commit could not take back stands in the way.
            os.ftruncate(fd, batch.base)
        with nogil:
            checksum_records(at, batch.offsets, batch.count)
            while left:
                done = pwrite(fd, at, left, offset)
                if done < 0:
                    if errno == EINTR:
                        continue
                    failed = errno
                    break
                at += done
                left -= <size_t>done
                offset += done
            if sync and not failed and batch.count:
                while fdatasync(fd) != 0:
                    failed = errno
                    if failed != EINTR:
                        break
                    failed = 0
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _take_back(self) -> None:
        """The file as it was. Where even that fails, the next commit begins with it."""
        cdef Batch batch = self._batch
        if batch.segment.is_new:
            try:
                os.unlink(batch.segment.path)
            except OSError:
                return
        elif self._fd >= 0:
            if ftruncate(self._fd, batch.base) == 0:
                fdatasync(self._fd)


def sync_directory(path: str) -> None:
    """Have the names in a directory on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
