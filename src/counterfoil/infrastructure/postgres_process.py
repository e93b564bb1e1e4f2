"""Runs PostgreSQL's programs as the right user, ends those that a kill left behind, and explains failures."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from counterfoil.infrastructure import postgres_launcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# `postgres` may own another server here and `daemon` belongs to nobody in particular: both only stand in.
SERVER_USER_NAMES = ("nobody", "postgres", "daemon")

# A fast shutdown writes a checkpoint, which a slow disk may stretch; an immediate one only ends processes.
ENDING_SIGNALS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
POLL_SECONDS = 0.05

FREE_MB_MIN = 200  # A new cluster takes 40 MB, and its log grows before the first checkpoint frees any.
FREE_MB_WAL_SEGMENT = 16  # With less, PostgreSQL cannot add a segment: whatever it says, the disk is full.
LOG_TAIL_BYTES_MAX = 65_536


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message is a sentence for the terminal with the next step."""


@dataclass(frozen=True)
class ServerUser:
    """The operating system's user that PostgreSQL runs as."""

    uid: int
    gid: int
    name: str


def choose_server_user(cluster: Path) -> ServerUser:
    """Choose whom PostgreSQL runs as: ourselves, or an unprivileged user when we are root, which it refuses.

    An existing cluster decides: PostgreSQL runs only as its owner.
    """
    owner_uid = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        ourselves = ServerUser(os.geteuid(), os.getegid(), _name_user(os.geteuid()))
        if owner_uid not in (None, ourselves.uid):
            raise EmbeddedPostgresError(
                f"{cluster} belongs to user {_name_user(owner_uid)}; run counterfoil as that user or pass --data."
            )
        return ourselves
    if owner_uid == 0:
        raise EmbeddedPostgresError(
            f"{cluster} belongs to root, and PostgreSQL refuses root; run `chown -R nobody: '{cluster}'`."
        )
    if owner_uid is not None:
        return ServerUser(owner_uid, cluster.stat().st_gid, _name_user(owner_uid))
    return _find_unprivileged_user()


def _name_user(uid: int) -> str:
    """Name the user for a sentence; a container may run under a number that has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _find_unprivileged_user() -> ServerUser:
    """Find an existing user without rights; we never create one."""
    users = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid != 0 and user.pw_gid != 0}
    for name in SERVER_USER_NAMES:
        if name in users:
            return ServerUser(users[name].pw_uid, users[name].pw_gid, name)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses root and no user `nobody` exists here; run counterfoil as an ordinary user."
    )


def find_closed_directories(user: ServerUser, directories: Iterable[Path]) -> list[Path]:
    """Find the directories on the way to `directories` that `user` may not pass, outermost first.

    Empty unless we are root: an ordinary user reads with the rights it has anyway.
    """
    if os.geteuid() != 0:
        return []
    on_the_way = {step for directory in directories for step in (directory, *directory.parents)}
    return sorted(step for step in on_the_way if not _may_pass(user, step.stat()))


def _may_pass(user: ServerUser, status: os.stat_result) -> bool:
    """Apply the kernel's rule: the first class that fits decides, even where a later one would allow more."""
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def start_program(
    command: Sequence[str], *, user: ServerUser, closed: Sequence[Path], output: int
) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs as `user`, with its output going to the descriptor `output`.

    On Linux it gets SIGINT when the *thread* that calls this ends, not only the process: call from a thread
    that lives as long as the server shall. The program has its own session, so Ctrl-C in the terminal
    reaches us first. Only with `closed` directories on its way it keeps one right of root's: to read and
    search past permissions.
    """
    launcher = [sys.executable, "-I", "-S", postgres_launcher.__file__]
    launcher += map(str, (user.uid, user.gid, len(closed), os.getpid()))
    # Not our environment: it may hold secrets, and PGPORT and its kin would change what the programs do.
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return subprocess.Popen(  # noqa: S603 (every word is ours)
        [*launcher, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",  # Ours may be closed to `user`, and PostgreSQL < 16 insists on reading it.
        env=environment,
        start_new_session=True,
    )


def explain_launch_failure(status: int, *, user: ServerUser, closed: Sequence[Path], data_dir: Path) -> str | None:
    """Explain an exit status of the launcher in a sentence; None when PostgreSQL itself exited."""
    if status == postgres_launcher.EXIT_CAPABILITY_DENIED:
        is_data = bool({data_dir, *data_dir.parents}.intersection(closed))
        elsewhere = "pass --data" if is_data else "install counterfoil elsewhere"
        names = " ".join(f"'{directory}'" for directory in closed)
        return (
            f"PostgreSQL runs as `{user.name}`, which may not pass {names}, and the capability to read past"
            f" permissions (CAP_DAC_READ_SEARCH) is denied here; {elsewhere} or run `chmod o+x {names}`."
        )
    if status == postgres_launcher.EXIT_USER_DENIED:
        return f"PostgreSQL refuses root and we may not become `{user.name}`; run counterfoil as an ordinary user."
    if status == postgres_launcher.EXIT_NOT_EXECUTABLE:
        return f"PostgreSQL's programs may not be executed by `{user.name}`; install counterfoil again with umask 022."
    return None


def is_port_free(port: int, *, host: str) -> bool:
    """Tell whether the port is not taken; what else is wrong with it PostgreSQL says better."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As PostgreSQL does it: connections of a server that has just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True


def find_free_port(*, host: str) -> int:
    """Find a port that is free now; it may be taken before PostgreSQL binds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def read_log_tail(log: Path, start: int) -> str:
    """Read what was written to the log since `start`, its last part when that is long."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - LOG_TAIL_BYTES_MAX))
        return file.read().decode(errors="replace")


def find_reason(messages: str) -> str | None:
    """Find the last message that ended a program, else the last line."""
    reasons = re.findall(r"(?:FATAL|PANIC|error): +(.+)", messages) or messages.split("\n")
    return next((reason.strip() for reason in reversed(reasons) if reason.strip()), None)


def shows_full_disk(messages: str, directory: Path) -> bool:
    """Tell a full disk as cause; the log may not say so, for it is on the same disk."""
    return os.strerror(errno.ENOSPC) in messages or count_free_mb(directory) < FREE_MB_WAL_SEGMENT


def count_free_mb(directory: Path) -> int:
    """Count the megabytes that an ordinary user may still fill on the directory's disk."""
    return shutil.disk_usage(directory).free // 1_000_000


def describe_full_disk(directory: Path) -> str:
    """Describe a full disk; one can also run out of inodes or of a quota with megabytes to spare."""
    free_mb = count_free_mb(directory)
    doubt = ", so it is out of inodes or of quota" if free_mb >= FREE_MB_MIN else ""
    return (
        f"The disk that holds {directory} is full ({free_mb} MB free{doubt});"
        f" free at least {FREE_MB_MIN} MB or pass --data to use another disk."
    )


def end_leftover_servers(cluster: Path) -> bool:
    """End what a killed owner left running in `cluster`; tells whether there was anything.

    The caller must hold the data directory's lock: then no living counterfoil owns these processes.
    Also removes a postmaster.pid whose number now is a stranger's, for PostgreSQL would refuse to start.
    """
    postmaster = _read_postmaster_pid(cluster)
    leftovers = find_server_processes(cluster)
    if postmaster in leftovers:
        _end_processes([postmaster], cluster)
    # Sessions outlive a killed postmaster until they next wait; PostgreSQL refuses to start beside them.
    _end_processes(find_server_processes(cluster), cluster)
    if postmaster is not None and _is_stranger(postmaster, cluster):
        (cluster / "postmaster.pid").unlink(missing_ok=True)
    return bool(leftovers)


def find_server_processes(cluster: Path) -> list[int]:
    """Find the processes that are proven to be PostgreSQL working in `cluster`.

    Without /proc (macOS) only the postmaster is found, and its sessions end with it.
    """
    if sys.platform == "linux":
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    else:
        postmaster = _read_postmaster_pid(cluster)
        pids = [] if postmaster is None else [postmaster]
    return [pid for pid in pids if _is_server_of(cluster, pid)]


def _read_postmaster_pid(cluster: Path) -> int | None:
    """Read the number in PostgreSQL's pid file; None when there is none or a crash left it empty."""
    try:
        first_line = (cluster / "postmaster.pid").read_text(errors="replace").partition("\n")[0].strip()
    except FileNotFoundError:
        return None
    return int(first_line) if first_line.isdecimal() else None


def _is_server_of(cluster: Path, pid: int) -> bool:
    """Prove that the process is a PostgreSQL of this directory; a number alone may have been reused."""
    if sys.platform != "linux":
        words = _read_command_line(pid)
        return "postgres" in words and f"-D {cluster}" in words
    if _read_process_name(pid) != "postgres":
        return False
    try:
        return Path(f"/proc/{pid}/cwd").samefile(cluster)
    except PermissionError:
        # Root in a container without CAP_SYS_PTRACE: the command line is readable and names the directory.
        return f"-D {cluster}" in _read_command_line(pid)
    except OSError:  # It ended while we looked.
        return False


def _is_stranger(pid: int, cluster: Path) -> bool:
    """Prove that a living process has nothing to do with PostgreSQL in this directory."""
    try:
        os.kill(pid, 0)
    except OSError:  # Dead, or another user's: PostgreSQL sees through both by itself.
        return False
    return not _is_server_of(cluster, pid)


def _read_process_name(pid: int) -> str:
    """Read the kernel's short name of the process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _read_command_line(pid: int) -> str:
    """Read the words of the process, joined by spaces; empty when it has ended."""
    listing = Path("/proc/self/cmdline")
    if listing.exists():  # Linux
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        except OSError:
            return ""
    command = ["ps", "-p", str(pid), "-o", "command="]
    shown = subprocess.run(command, capture_output=True, check=False, timeout=10)  # noqa: S603 (words are ours)
    return os.fsdecode(shown.stdout)


def _end_processes(pids: Sequence[int], cluster: Path) -> None:
    """End processes that are not our children, ever harder. Each is proven ours again before each signal."""
    for ending, seconds in ENDING_SIGNALS:
        running = [pid for pid in pids if _is_server_of(cluster, pid)]
        for pid in running:
            os.kill(pid, ending)
        deadline = time.monotonic() + seconds
        while any(_is_server_of(cluster, pid) for pid in running):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        else:
            return
    raise EmbeddedPostgresError(f"A PostgreSQL left in {cluster} does not end (pids {pids}); end it and try again.")


def end_child(process: subprocess.Popen[bytes]) -> None:
    """End a program that we started, ever harder, and wait for it."""
    for ending, seconds in ENDING_SIGNALS:
        process.send_signal(ending)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return
