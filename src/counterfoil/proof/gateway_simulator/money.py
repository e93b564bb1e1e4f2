"""What the simulated gateway does with money: Stripe's rules for intents and refunds, and nothing of the wire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from counterfoil.kernel.money import CURRENCY_DIGITS
from counterfoil.proof.gateway_simulator.cards import CARDS, Card, Result

Thing = dict[str, Any]

_AMOUNT_MAX: Final = 99_999_999_999
_CANCELABLE: Final = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
)


class Refusal(Exception):
    """A call that is refused before it changes anything. `status` and `error` are what Stripe would answer."""

    def __init__(self, status: int, kind: str, message: str, **details: Any) -> None:
        """Keep the answer: `kind` is the error's type, `details` its further members."""
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message, **details}


def invalid(message: str, **details: Any) -> Refusal:
    """Return a refusal of a call that is wrong in itself or comes at the wrong time."""
    return Refusal(400, "invalid_request_error", message, **details)


@dataclass(slots=True)
class Outcome:
    """What one call does: the object it answers with, all that changes, the moves of money, the events."""

    answer: Thing
    status: int = 200
    objects: list[Thing] = field(default_factory=list)
    moves: list[Thing] = field(default_factory=list)
    events: list[Thing] = field(default_factory=list)


class Book:
    """All intents, refunds and events. Calls compute an Outcome; only `apply` changes the book."""

    def __init__(self, name: str) -> None:
        """Make an empty book; `name` keeps identifiers of different books apart."""
        # Where buyers are sent to authenticate: known when the port is.
        self.base_url = ""
        self.intents: dict[str, Thing] = {}
        self.refunds: dict[str, Thing] = {}
        self.events: dict[str, Thing] = {}
        self._refunds_by_intent: defaultdict[str, list[Thing]] = defaultdict(list)
        self._name = name

    def apply(self, objects: list[Thing], events: list[Thing]) -> None:
        """Take in what a call has changed, now or when the journal is read."""
        for thing in objects:
            if thing["object"] == "payment_intent":
                self.intents[thing["id"]] = thing
            else:  # a refund, which never changes: it succeeds at once
                self.refunds[thing["id"]] = thing
                self._refunds_by_intent[thing["payment_intent"]].append(thing)
        for event in events:
            self.events[event["id"]] = event

    # ------------------------------------------------------------ intents
    def create(self, form: Thing, now: int) -> Outcome:
        """Create an intent, and confirm it if asked to."""
        amount, currency = _amount(form, "amount"), str(form.get("currency", "")).upper()
        if currency not in CURRENCY_DIGITS:
            raise invalid("Invalid currency.", param="currency")
        if form.get("capture_method", "automatic") not in {"automatic", "automatic_async", "manual"}:
            raise invalid("Invalid capture_method.", param="capture_method")
        number = len(self.intents) + 1
        intent: Thing = {
            "id": f"pi_{self._name}{number:010d}",
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "canceled_at": None,
            "capture_method": form.get("capture_method", "automatic"),
            "client_secret": f"pi_{self._name}{number:010d}_secret_simulated",
            "created": now,
            "currency": currency.lower(),
            "description": form.get("description"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": dict(form.get("metadata", {})),
            "next_action": None,
            "payment_method": None,
            "payment_method_types": list(form.get("payment_method_types", {"0": "card"}).values()),
            "status": "requires_payment_method",
        }
        outcome = Outcome(intent)
        self._tell(outcome, "payment_intent.created", intent, now)
        if form.get("payment_method"):
            _card(form["payment_method"])
            intent["payment_method"] = form["payment_method"]
            intent["status"] = "requires_confirmation"
        if form.get("confirm") == "true":
            self._confirm(outcome, intent, form, now)
        outcome.objects.append(intent)
        return outcome

    def confirm(self, intent_id: str, form: Thing, now: int) -> Outcome:
        """Confirm an intent that was created without."""
        intent = deepcopy(self.intent(intent_id))
        if form.get("payment_method"):
            intent["payment_method"] = form["payment_method"]
        _require_state(intent, {"requires_confirmation", "requires_payment_method"}, "confirm")
        outcome = Outcome(intent)
        self._confirm(outcome, intent, form, now)
        outcome.objects.append(intent)
        return outcome

    def authenticate(self, intent_id: str, *, approved: bool, now: int) -> Outcome:
        """Play the buyer who was sent away to authenticate."""
        intent = deepcopy(self.intent(intent_id))
        _require_state(intent, {"requires_action"}, "authenticate")
        intent["next_action"] = None
        outcome = Outcome(intent)
        if approved:
            self._approve(outcome, intent, now)
        else:
            code = "payment_intent_authentication_failure"
            self._decline(outcome, intent, Card("", Result.DECLINED, code), now)
            outcome.status = 200
            outcome.answer = intent
        outcome.objects.append(intent)
        return outcome

    def capture(self, intent_id: str, form: Thing, now: int) -> Outcome:
        """Take held money, once; the rest is released."""
        intent = deepcopy(self.intent(intent_id))
        _require_state(intent, {"requires_capture"}, "capture")
        amount = _amount(form, "amount_to_capture") if "amount_to_capture" in form else intent["amount_capturable"]
        if amount > intent["amount_capturable"]:
            raise invalid(
                "The amount to capture is greater than the amount that can be captured.",
                code="amount_too_large",
                param="amount_to_capture",
            )
        outcome = Outcome(intent)
        self._take(outcome, intent, amount, now)
        outcome.objects.append(intent)
        return outcome

    def cancel(self, intent_id: str, _form: Thing, now: int) -> Outcome:
        """Release held money or give an intent up."""
        intent = deepcopy(self.intent(intent_id))
        _require_state(intent, _CANCELABLE, "cancel")
        outcome = Outcome(intent)
        if intent["amount_capturable"]:
            outcome.moves.append(_move("voided", intent, intent["amount_capturable"]))
        intent |= {"status": "canceled", "amount_capturable": 0, "canceled_at": now, "next_action": None}
        self._tell(outcome, "payment_intent.canceled", intent, now)
        outcome.objects.append(intent)
        return outcome

    # ------------------------------------------------------------ refunds
    def refund(self, form: Thing, now: int) -> Outcome:
        """Give captured money back, never more than is left."""
        intent = self.intent(str(form.get("payment_intent", "")))
        _require_state(intent, {"succeeded"}, "refund")
        left = intent["amount_received"] - sum(refund["amount"] for refund in self.refunds_of(intent["id"]))
        if left == 0:
            raise invalid("Charge has already been refunded.", code="charge_already_refunded")
        amount = _amount(form, "amount") if "amount" in form else left
        if amount > left:
            raise invalid(f"Refund amount is greater than unrefunded amount on charge ({left}).", param="amount")
        refund: Thing = {
            "id": f"re_{self._name}{len(self.refunds) + 1:010d}",
            "object": "refund",
            "amount": amount,
            "charge": intent["latest_charge"],
            "created": now,
            "currency": intent["currency"],
            "metadata": dict(form.get("metadata", {})),
            "payment_intent": intent["id"],
            "reason": form.get("reason"),
            "status": "succeeded",
        }
        outcome = Outcome(refund, objects=[refund], moves=[_move("refunded", intent, amount)])
        self._tell(outcome, "refund.created", refund, now)
        return outcome

    # ------------------------------------------------------------ reading
    def intent(self, intent_id: str) -> Thing:
        """Return an intent; raises Refusal when there is none."""
        return _found(self.intents, "payment_intent", intent_id)

    def get_refund(self, refund_id: str) -> Thing:
        """Return a refund; raises Refusal when there is none."""
        return _found(self.refunds, "refund", refund_id)

    def event(self, event_id: str) -> Thing:
        """Return an event; raises Refusal when there is none."""
        return _found(self.events, "event", event_id)

    def refunds_of(self, intent_id: str) -> list[Thing]:
        """Return an intent's refunds, oldest first."""
        return list(self._refunds_by_intent.get(intent_id, ()))

    # ------------------------------------------------------------ steps
    def _confirm(self, outcome: Outcome, intent: Thing, form: Thing, now: int) -> None:
        if not intent["payment_method"]:
            raise invalid("A payment method is needed to confirm.", code="parameter_missing", param="payment_method")
        card = _card(intent["payment_method"])
        answers: dict[Result, Callable[[], None]] = {
            Result.APPROVED: lambda: self._approve(outcome, intent, now),
            Result.DECLINED: lambda: self._decline(outcome, intent, card, now),
            Result.ACTION: lambda: self._ask_buyer(outcome, intent, form, now),
        }
        answers[card.result]()

    def _approve(self, outcome: Outcome, intent: Thing, now: int) -> None:
        intent["latest_charge"] = intent["id"].replace("pi_", "ch_", 1)
        intent["last_payment_error"] = None
        intent["amount_capturable"] = intent["amount"]
        outcome.moves.append(_move("authorized", intent, intent["amount"]))
        if intent["capture_method"] == "manual":
            intent["status"] = "requires_capture"
            self._tell(outcome, "payment_intent.amount_capturable_updated", intent, now)
        else:
            self._take(outcome, intent, intent["amount"], now)

    def _take(self, outcome: Outcome, intent: Thing, amount: int, now: int) -> None:
        intent |= {"status": "succeeded", "amount_received": amount, "amount_capturable": 0}
        outcome.moves.append(_move("captured", intent, amount))
        self._tell(outcome, "payment_intent.succeeded", intent, now)

    def _decline(self, outcome: Outcome, intent: Thing, card: Card, now: int) -> None:
        error: Thing = {"type": "card_error", "code": card.code, "message": "Your card was declined."}
        if card.decline_code:
            error["decline_code"] = card.decline_code
        intent |= {"status": "requires_payment_method", "last_payment_error": error, "payment_method": None}
        outcome.status = 402
        outcome.answer = {"error": {**error, "payment_intent": intent}}
        self._tell(outcome, "payment_intent.payment_failed", intent, now)

    def _ask_buyer(self, outcome: Outcome, intent: Thing, form: Thing, now: int) -> None:
        url = f"{self.base_url}/control/authenticate/{intent['id']}"
        redirect = {"url": url, "return_url": form.get("return_url")}
        intent |= {
            "status": "requires_action",
            "next_action": {"type": "redirect_to_url", "redirect_to_url": redirect},
        }
        self._tell(outcome, "payment_intent.requires_action", intent, now)

    def _tell(self, outcome: Outcome, kind: str, thing: Thing, now: int) -> None:
        number = len(self.events) + len(outcome.events) + 1
        outcome.events.append(
            {
                "id": f"evt_{self._name}{number:010d}",
                "object": "event",
                "created": now,
                "data": {"object": deepcopy(thing)},
                "livemode": False,
                "type": kind,
            }
        )


def _found(known: dict[str, Thing], kind: str, name: str) -> Thing:
    if name not in known:
        raise Refusal(404, "invalid_request_error", f"No such {kind}: {name!r}", code="resource_missing", param="id")
    return known[name]


def _card(name: str) -> Card:
    if name not in CARDS:
        raise invalid(f"No such PaymentMethod: {name!r}", code="resource_missing", param="payment_method")
    return CARDS[name]


def _amount(form: Thing, name: str) -> int:
    text = str(form.get(name, ""))
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_AMOUNT_MAX)) or int(text) < 1:
        raise invalid(f"Invalid positive integer: {name}.", code="parameter_invalid_integer", param=name)
    return int(text)


def _require_state(intent: Thing, states: set[str] | frozenset[str], action: str) -> None:
    if intent["status"] not in states:
        raise invalid(
            f"This PaymentIntent could not be changed by {action}: its status is {intent['status']}.",
            code="payment_intent_unexpected_state",
            payment_intent=deepcopy(intent),
        )


def _move(kind: str, intent: Thing, amount: int) -> Thing:
    return {
        "kind": kind,
        "payment": intent["id"],
        "amount": amount,
        "currency": intent["currency"].upper(),
        "metadata": intent["metadata"],
    }
