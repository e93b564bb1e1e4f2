"""Starts and stops a PostgreSQL of our own, in a directory of its own.

The wheel's own launcher is not used: as root it opens every parent directory to the world and creates a
user, and its server stays behind when we are killed. Processes and rights are in `postgres_process`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from counterfoil.infrastructure import postgres_process
from counterfoil.infrastructure.postgres_binaries import HOST, USER, PostgresBinaries, find_binaries
from counterfoil.infrastructure.postgres_process import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "PostgresBinaries", "find_binaries"]

LOG_MB_MAX = 10  # Then the log is put aside at the next start; one old log is kept.

INITDB_SECONDS_MAX = 300  # 1.3 s here; a memory card may need a hundred times that.
ACCEPT_SECONDS_MAX = 60
ORDINARY_START_SECONDS = 2  # 0.2 s here. Every start says "starting up"; one that takes longer recovers.
RECOVERY_SECONDS_MAX = 600  # While it says that it recovers: giving up would only make it begin anew.
START_ATTEMPTS = 5


class EmbeddedPostgres:
    """One PostgreSQL server on 127.0.0.1 over one data directory, which has one owner at a time.

    Linux: the server ends when the *thread* that called `start` ends, however it ends; so call it from the
    main thread. Elsewhere a server left by a killed owner is ended at the next start. Not for use from
    several threads at once.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
        database: str = "counterfoil",
        more_databases: Sequence[str] = (),
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._cluster = self._data_dir / "postgres"
        self._wanted_port = port
        self._port = port
        self._settings = dict(settings or {})
        self._on_progress = on_progress
        self._database = database
        self._more_databases = tuple(more_databases)
        self._password = ""
        self._binaries: PostgresBinaries | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._owner_pid = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL to connect to, with the password: not for logs. Known once started, kept over a restart."""
        if not self._password:
            raise EmbeddedPostgresError("The embedded PostgreSQL was not started; call start() first.")
        return self.url_of(self._database)

    def url_of(self, database: str) -> str:
        """Return the URL of one of the server's databases, as `url`."""
        return f"postgresql://{USER}:{quote(self._password)}@{HOST}:{self._port}/{quote(database, safe='')}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process number, None unless running."""
        return self._process.pid if self._process is not None and self.is_running() else None

    @property
    def log_path(self) -> Path:
        """The file that PostgreSQL's messages are appended to."""
        return self._data_dir / "postgres.log"

    @property
    def binaries(self) -> PostgresBinaries:
        """The programs that fit the cluster: of its version, or the best there are for a new one."""
        if self._binaries is None:
            version_file = self._cluster / "PG_VERSION"
            major = int(version_file.read_text()) if version_file.exists() else None
            try:
                self._binaries = find_binaries(major=major)
            except EmbeddedPostgresError as error:
                raise EmbeddedPostgresError(f"Cannot run {self._cluster}: {error}") from error
        return self._binaries

    def is_running(self) -> bool:
        """Tell whether the postmaster lives; it may have been killed since `start`."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server, creating cluster and database on first use, and return the URL once it accepts.

        Idempotent. Recovers from whatever a kill or a crash left behind. Raises EmbeddedPostgresError, and
        then nothing is left running.
        """
        if self.is_running():
            return self.url
        self._owner_pid = os.getpid()
        try:
            self._own_directory()
            self._refuse_full_disk()
            if postgres_process.end_leftover_servers(self._cluster):
                self._on_progress("Ended the PostgreSQL that a killed counterfoil had left")
            self._port = self._pick_port()
            self._create_cluster()
            self._start_server()
            self._create_databases()
        except (OSError, psycopg.Error) as error:
            self.stop()
            raise self._explain_system_error(error) from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """Stop the server and let go of the directory. Idempotent.

        Sessions are cut off, nothing committed is lost. Does nothing in a forked child: the server is its parent's.
        """
        if os.getpid() != self._owner_pid:
            return
        if self._process is not None:
            postgres_process.end_child(self._process)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _own_directory(self) -> None:
        """Create the data directory and become its one owner; the kernel frees the lock however we end."""
        self._user = postgres_process.choose_server_user(self._cluster)
        for directory in reversed([self._data_dir, *self._data_dir.parents]):
            if not directory.exists():
                self._create_directory(directory)
        if self._lock is not None:
            return
        lock = self._open_private("lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise EmbeddedPostgresError(
                f"Another counterfoil (pid {holder}) uses {self._data_dir}; stop it or pass --data."
            ) from error
        self._lock = lock
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _create_directory(self, directory: Path) -> None:
        """Create a directory of mode 0700; root's may also be passed, but not listed, by the server's group.

        It stays root's, so that no process of the server's user can plant a link where root writes next.
        """
        try:
            directory.mkdir()
        except FileExistsError:  # Another counterfoil starts at the same moment; the lock will decide.
            return
        if os.geteuid() == 0:
            os.chown(directory, 0, self._user.gid)
        # After the fact, for the umask may be anything.
        directory.chmod(0o710 if os.geteuid() == 0 else 0o700)

    def _open_private(self, name: str, flags: int) -> int:
        """Open a file beside the cluster, 0600 and the server's user's, which may be the next to start us."""
        descriptor = os.open(self._data_dir / name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
        if os.geteuid() == 0:
            os.fchown(descriptor, self._user.uid, self._user.gid)
        return descriptor

    def _create_cluster(self) -> None:
        """Create the cluster unless there is one: built aside and renamed, so what has the name is whole."""
        # A killed owner's initdb may go on writing for a moment: so every attempt has a folder of its own, and what
        # cannot be removed yet is removed by the next start.
        for half_built in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(half_built, ignore_errors=True)
        if (self._cluster / "PG_VERSION").exists():
            self._password = self._read_password()
            return
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise EmbeddedPostgresError(f"{self._cluster} is not a PostgreSQL cluster; move it away or pass --data.")
        self._on_progress(f"Creating the database in {self._data_dir}")
        fresh = self._data_dir / f"postgres.new-{secrets.token_hex(4)}"
        fresh.mkdir()
        fresh.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(fresh, self._user.uid, self._user.gid)
        self._password = secrets.token_urlsafe(24)
        password_file = self._open_private("postgres.password", os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(password_file, "w") as file:
            file.write(f"{self._password}\n")
            file.flush()
            os.fsync(password_file)
        try:
            self._run_initdb(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.rename(self._cluster)
        _flush_directory(self._data_dir)

    def _read_password(self) -> str:
        """Read the password that the cluster was created with."""
        try:
            return (self._data_dir / "postgres.password").read_text().strip()
        except FileNotFoundError as error:
            raise EmbeddedPostgresError(
                f"{self._data_dir}/postgres.password is missing; restore it together with the cluster."
            ) from error

    def _run_initdb(self, directory: Path) -> None:
        """Run initdb, and leave none of its processes behind when we are interrupted."""
        command = self.binaries.build_initdb_command(directory, self._data_dir / "postgres.password")
        process, log_start = self._start_program(command)
        try:
            status = process.wait(INITDB_SECONDS_MAX)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # With the server that it runs to fill the tables.
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise EmbeddedPostgresError(
                    f"Creating the database takes over {INITDB_SECONDS_MAX} s; see {self.log_path}."
                ) from error
            raise
        if status != 0:
            raise self._explain_exit(status, log_start)

    def _start_program(self, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
        """Start a program that writes to the log; returns it and where in the log its messages begin."""
        install = self.binaries.bin_dir.parent
        folders = [folder for name in ("bin", "lib", "share") if (folder := install / name).exists()]
        self._closed = postgres_process.find_closed_directories(self._user, [self._data_dir, *folders])
        log = self._open_private(self.log_path.name, os.O_WRONLY | os.O_APPEND)
        try:
            log_start = os.fstat(log).st_size
            return postgres_process.start_program(command, user=self._user, closed=self._closed, output=log), log_start
        finally:
            os.close(log)

    def _start_server(self) -> None:
        """Start the postmaster and wait until it accepts."""
        self._put_long_log_aside()
        for _ in range(START_ATTEMPTS):
            self._on_progress(f"Starting PostgreSQL {self.binaries.version} on {HOST}:{self._port}")
            options = {**self._settings, "port": str(self._port)}
            process, log_start = self._start_program(self.binaries.build_server_command(self._cluster, options))
            self._process = process
            if self._wait_until_accepting(process):
                return
            messages = postgres_process.read_log_tail(self.log_path, log_start)
            if "Address already in use" in messages:  # Taken between our look and PostgreSQL's.
                self._port = self._pick_port()
            elif "pre-existing shared memory block" in messages:
                # A killed postmaster's sessions, which a container may hide from us, are still ending.
                time.sleep(1)
            else:
                break
        raise self._explain_exit(process.returncode, log_start)

    def _pick_port(self) -> int:
        """Pick the wanted port, else the last one, where pools look after a restart, else any free one."""
        preferred = self._wanted_port or self._port
        if preferred is not None and postgres_process.is_port_free(preferred, host=HOST):
            return preferred
        if self._wanted_port is not None:
            raise EmbeddedPostgresError(f"Port {preferred} on {HOST} is taken; stop what uses it or pass another port.")
        return postgres_process.find_free_port(host=HOST)

    def _wait_until_accepting(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server accepts; False when it ended instead. Crash recovery may take its time."""
        started = time.monotonic()
        seconds_max = ACCEPT_SECONDS_MAX
        while process.poll() is None:
            try:
                self._connect().close()
            except psycopg.OperationalError as error:
                answer = str(error)
            else:
                return True
            if "password authentication failed" in answer:
                raise EmbeddedPostgresError(
                    f"{self._data_dir}/postgres.password does not open the cluster beside it; restore the right one."
                )
            seconds = time.monotonic() - started
            is_recovering = "the database system is" in answer and seconds > ORDINARY_START_SECONDS
            if is_recovering and seconds_max == ACCEPT_SECONDS_MAX:
                seconds_max = RECOVERY_SECONDS_MAX
                self._on_progress("PostgreSQL recovers what a crash interrupted")
            if seconds > seconds_max:
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not accept connections after {seconds_max} s; see {self.log_path}."
                )
            time.sleep(postgres_process.POLL_SECONDS)
        return False

    def _connect(self) -> psycopg.Connection:
        """Connect to the maintenance database; what PG* variables say about other servers does not count."""
        return psycopg.connect(
            host=HOST,
            hostaddr=HOST,
            port=self._port,
            user=USER,
            password=self._password,
            dbname="postgres",
            sslmode="disable",
            gssencmode="disable",
            options="",
            connect_timeout=5,
            autocommit=True,
        )

    def _create_databases(self) -> None:
        """Create the databases that are not there."""
        with self._connect() as connection:
            for name in (self._database, *self._more_databases):
                query = "SELECT FROM pg_database WHERE datname = %s"
                if connection.execute(query, [name]).fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _put_long_log_aside(self) -> None:
        """Begin a new log when the old one is long, so that it cannot fill the disk over the years."""
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_MB_MAX * 1_000_000:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _refuse_full_disk(self) -> None:
        """Refuse to begin what a full disk would interrupt."""
        if postgres_process.count_free_mb(self._data_dir) < postgres_process.FREE_MB_MIN:
            raise EmbeddedPostgresError(postgres_process.describe_full_disk(self._data_dir))

    def _explain_exit(self, status: int, log_start: int) -> EmbeddedPostgresError:
        """Explain why one of PostgreSQL's programs ended, by its status and what it wrote to the log."""
        sentence = postgres_process.explain_launch_failure(
            status, user=self._user, closed=self._closed, data_dir=self._data_dir
        )
        if sentence is not None:
            return EmbeddedPostgresError(sentence)
        messages = postgres_process.read_log_tail(self.log_path, log_start)
        if postgres_process.shows_full_disk(messages, self._data_dir):
            return EmbeddedPostgresError(postgres_process.describe_full_disk(self._data_dir))
        reason = postgres_process.find_reason(messages) or f"it ended with status {status}"
        return EmbeddedPostgresError(f"PostgreSQL does not start: {reason}; see {self.log_path}.")

    def _explain_system_error(self, error: OSError | psycopg.Error) -> EmbeddedPostgresError:
        """Explain what the operating system refused us, or PostgreSQL once it ran."""
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or isinstance(error, psycopg.errors.DiskFull):
            return EmbeddedPostgresError(postgres_process.describe_full_disk(self._data_dir))
        if isinstance(error, psycopg.Error):
            return EmbeddedPostgresError(f"PostgreSQL refuses: {error}; see {self.log_path}.")
        return EmbeddedPostgresError(
            f"Cannot use {error.filename or self._data_dir}: {error.strerror};"
            " make it usable for this user or pass --data."
        )


def _flush_directory(directory: Path) -> None:
    """Make a rename in the directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
