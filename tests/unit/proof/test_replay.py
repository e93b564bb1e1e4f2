"""What a replay reports, without sending anything."""

from __future__ import annotations

from counterfoil.proof.load_client import LoadResult
from counterfoil.proof.replay import ReplayResult, make_report


def make_result(**outcomes: int) -> ReplayResult:
    load = LoadResult(seconds=2.0)
    for name, count in outcomes.items():
        status, _, code = name.removeprefix("_").partition("_")
        load.outcomes[int(status), code] = count
        load.latencies_ms.extend([5.0] * count)
    return ReplayResult(load=load)


def test_the_report_keeps_the_promised_keys() -> None:
    report = make_report(make_result(_201=6, _409_INSUFFICIENT_INVENTORY=4))

    promised = ("sent", "accepted", "refused", "orders_per_s", "p50_ms", "p95_ms", "p99_ms")
    assert {key: report[key] for key in promised} == {
        "sent": 10,
        "accepted": 6,
        "refused": {"INSUFFICIENT_INVENTORY": 4},
        "orders_per_s": 3.0,
        "p50_ms": 5.0,
        "p95_ms": 5.0,
        "p99_ms": 5.0,
    }
    assert report["unexplained"] == {}


def test_everything_but_an_order_and_a_documented_refusal_is_unexplained() -> None:
    result = make_result(_201=1, _409_INSUFFICIENT_INVENTORY=1, _503_QUEUE_FULL=2, _0_NO_ANSWER=3, _200_=1)

    assert result.unexplained == {"503 QUEUE_FULL": 2, "0 NO_ANSWER": 3, "200": 1}
