"""`counterfoil serve` on a port that somebody has: never two on one port, and one sentence says so."""

from __future__ import annotations

import socket

import httpx

from conftest import PRODUCTION, Service, run_counterfoil


def test_a_second_service_on_the_same_port_is_refused(service: Service) -> None:
    port = service.url.rpartition(":")[2]

    refused = run_counterfoil("serve", "--port", port, check=False, DATABASE_URL=service.database_url)

    assert refused.returncode == 1
    assert refused.stderr == (
        f"Error: Port {port} cannot be used (Address already in use); stop what uses it, or choose another one with"
        " --port.\n"
    )
    assert httpx.get(service.url + "/readyz").status_code == 200


def test_a_port_of_another_program_is_refused_even_when_it_would_share_it(database_url: str) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run_counterfoil("serve", "--port", port, check=False, DATABASE_URL=database_url)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: Port {port} cannot be used (Address already in use); stop what uses it")
    assert refused.stderr.count("\n") == 1


def test_an_address_that_is_not_of_this_machine_is_one_clear_sentence(database_url: str) -> None:
    environment = {**PRODUCTION, "DATABASE_URL": database_url}
    refused = run_counterfoil("serve", "--host", "192.0.2.1", "--port", "1", check=False, **environment)

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: Port 1 cannot be used (")
    assert refused.stderr.count("\n") == 1
