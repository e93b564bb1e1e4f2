"""What the API's description says beyond the controllers' signatures: credentials, headers, examples, exact bounds."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.plugins import OpenAPISchemaPlugin
from litestar.routes import HTTPRoute
from litestar.typing import FieldDefinition

from counterfoil.api.middleware.limits import classify_route
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.users.permissions import PUBLIC

if TYPE_CHECKING:  # where Litestar keeps it is its own business
    from litestar._openapi.schema_generation import SchemaCreator

_KEY: Final = Parameter(
    name="Idempotency-Key",
    param_in="header",
    description="A fresh value for every new request, such as a UUID; a repeated request with the same key is done "
    "once and answered alike.",
    schema=Schema(
        type=OpenAPIType.STRING,
        pattern=r'^([A-Za-z0-9_.:-]{16,255}|"[A-Za-z0-9_.:-]{16,255}")$',
        examples=["my-key-00000001"],
    ),
)
_MATCH: Final = Parameter(
    name="If-Match",
    param_in="header",
    description="The ETag that was read, or `*`; 412 when the resource has changed since.",
    schema=Schema(type=OpenAPIType.STRING, pattern=r'^(\*|(W/)?"[!#-~]*")$', examples=['"1-created"']),
)
_ETAG: Final = OpenAPIHeader(
    description="Changes with every change; for `If-Match`.", schema=Schema(type=OpenAPIType.STRING)
)
_REPLAYED: Final = OpenAPIHeader(
    description="`true` when this answer was given before to the same Idempotency-Key.",
    schema=Schema(type=OpenAPIType.STRING, enum=["true"]),
)
_COUNT: Final = Schema(type=OpenAPIType.INTEGER, minimum=0)
# On every answer of a limited endpoint; described where it matters.
_LIMIT: Final[dict[str, OpenAPIHeader | Reference]] = {
    "RateLimit-Limit": OpenAPIHeader(description="Requests that pass in a window.", schema=_COUNT),
    "RateLimit-Remaining": OpenAPIHeader(description="Those that are left.", schema=_COUNT),
    "RateLimit-Reset": OpenAPIHeader(description="Seconds until the next window.", schema=_COUNT),
    "Retry-After": OpenAPIHeader(description="Seconds to wait.", schema=_COUNT),
}
_BINARY: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
_PROFILE: Final = {"phone": "+49 30 1234567", "city": "Berlin", "country_code": "DE"}
_REFRESH_TOKEN: Final = "cfr_" + "x" * 43
# Schema's name → what is shown with it.
EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "PlaceOrderIn": {
        "user_id": 123,
        "items": [{"product_id": 456, "quantity": 2}],
        "coupon_codes": ["SPRING-10"],
    },
    "UpdateOrderIn": {"items": [{"product_id": 456, "quantity": 3}], "client_reference": "PO-2025-17"},
    "ProductIn": {
        "sku": "TEA-100",
        "name": "Earl Grey, 100 g",
        "price": "19.99",
        "currency": "EUR",
        "tax_rate": "19",
    },
    "CouponIn": {
        "code": "SPRING-10",
        "kind": "percent",
        "value": "10",
        "ends_at": "2027-06-01T00:00:00Z",
        "usage_limit": 100,
        "per_customer_limit": 1,
    },
    "ConfirmIn": {"reason": "pays by invoice"},
    "CancelIn": {"reason": "out_of_stock", "restock": False, "refund": True},
    "CreateFulfillmentIn": {"items": [{"product_id": 456, "quantity": 1}]},
    "ShipIn": {
        "carrier": "DHL",
        "tracking_number": "JD014600003DE",
        "tracking_url": "https://www.example.com/track/JD014600003DE",
    },
    "PlaceHoldIn": {"reason": "address check"},
    "AddNoteIn": {"text": "Asked by phone for a quick delivery."},
    "RequestReturnIn": {"items": [{"product_id": 456, "quantity": 1}], "reason": "damaged"},
    "DecideReturnIn": {"note": "Please use the label in the parcel."},
    "ReceiveReturnIn": {"items": [{"product_id": 456, "restocked": 1, "damaged": 0}]},
    "CloseReturnIn": {"refund": True},
    "PayIn": {"method": "pm_card_visa", "capture": True},
    "CaptureIn": {"amount": "19.99"},
    "RefundIn": {"amount": "5.00", "reason": "one cup was chipped"},
    "ReviewIn": {"reason": "seen in the gateway's own list"},
    "MovementIn": {"kind": "receipt", "quantity": 100, "reason": "delivery note 4711"},
    "TokenIn": {"email": "ada@example.com", "password": "correct horse battery"},
    "RefreshIn": {"refresh_token": _REFRESH_TOKEN},
    "LogoutIn": {"refresh_token": _REFRESH_TOKEN, "everywhere": False},
    "PasswordResetIn": {"email": "ada@example.com"},
    "NewPasswordIn": {"token": "cft_" + "x" * 43, "password": "correct horse battery"},
    "ConfirmEmailIn": {"token": "cft_" + "x" * 43},
    "ResendIn": {"email": "ada@example.com"},
    "CreateApiKeyIn": {"user_id": 7, "name": "warehouse", "scopes": ["inventory:write"], "expires_in_days": 90},
    "CreateUserIn": {"email": "ada@example.com", "name": "Ada", "password": "correct horse battery"},
    "UpdateMeIn": {
        "name": "Ada Lovelace",
        "password": "another horse battery",
        "current_password": "correct horse battery",
        "profile": _PROFILE,
    },
    "UpdateUserIn": {"role": "support", "is_active": True},
    "Problem": {
        "type": "/errors/insufficient-inventory",
        "title": "Insufficient inventory",
        "status": 409,
        "error": {
            "code": "INSUFFICIENT_INVENTORY",
            "message": "Product 456 has only 2 units available",
            "details": {"product_id": 456, "requested": 5, "available": 2},
        },
        "request_id": "req-1f0c5a7e9b3d2c48",
    },
    "OrderOut": {
        "id": 789,
        "user_id": 123,
        "status": "created",
        "payment_status": "unpaid",
        "payment_unknown": False,
        "fulfillment_status": "unfulfilled",
        "return_status": "none",
        "has_open_return": False,
        "is_held": False,
        "total": 35.98,
        "currency": "EUR",
        "items": [
            {
                "product_id": 456,
                "sku": "TEA-100",
                "name": "Earl Grey, 100 g",
                "quantity": 2,
                "unit_price": 19.99,
                "line_total": 39.98,
                "shipped": 0,
                "returned": 0,
                "discount": 4.0,
                "tax_rate": 19,
                "tax": 5.74,
            }
        ],
        "subtotal": 39.98,
        "discount": 4.0,
        "shipping": 0.0,
        "tax": 5.74,
        "tax_included": True,
        "adjustments": [{"kind": "discount", "label": "SPRING-10", "amount": -4.0, "tax_rate": 0, "tax": 0.0}],
        "coupon_codes": ["SPRING-10"],
        "client_reference": "PO-2025-17",
        "version": 1,
        "allowed_actions": ["cancel", "pay", "update"],
        "created_at": "2025-01-15T10:30:00Z",
        "placed_at": "2025-01-15T10:30:00Z",
        "reserved_until": "2025-01-15T11:00:00Z",
        "updated_at": "2025-01-15T10:30:00Z",
    },
}


class ExactNumbers(OpenAPISchemaPlugin):
    """Amounts are sent as JSON numbers with exactly their digits, not as the text that the generator expects."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        """Take decimals only."""
        return value is Decimal

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:  # noqa: ARG002 - Litestar's signature
        """Describe a decimal as a number."""
        return Schema(type=OpenAPIType.NUMBER)


def complete_description(app: Litestar) -> None:
    """Add to the generated document what all operations have in common; once, before it is first served."""
    document = app.openapi_schema
    for route in app.routes:
        item = (document.paths or {}).get(route.path_format) if isinstance(route, HTTPRoute) else None
        if item is None or not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            operation = getattr(item, method.lower(), None)
            if isinstance(operation, Operation):
                _complete_operation(operation, handler, document)
                if classify_route(method, route.path) is not None:
                    _describe_limit(operation)
    for name, example in EXAMPLES.items():
        _schemas(document)[name].examples = [example]


def _complete_operation(operation: Operation, handler: HTTPRouteHandler, document: OpenAPI) -> None:
    operation.security = _security(handler)
    operation.parameters = [_exact(parameter) for parameter in operation.parameters or []]
    responses = operation.responses or {}
    # An answer says what the request may carry: 412 comes from If-Match, 422 from an Idempotency-Key.
    if "412" in responses:
        operation.parameters.append(_MATCH)
    if "422" in responses:
        required = bool(handler.opt.get("key_required"))
        operation.parameters.append(
            Parameter(_KEY.name, _KEY.param_in, _KEY.schema, description=_KEY.description, required=required)
        )
    for status, response in responses.items():
        if not isinstance(response, OpenAPIResponse) or not status.startswith("2"):
            continue
        if status == str(handler.status_code):
            response.description = handler.summary or response.description
            if response.content and "archive" in handler.opt:
                response.content[handler.opt["archive"]] = OpenAPIMediaType(_BINARY)
        if _is_empty(response):
            response.content = None  # `accepted()` has no body; the generator describes null
        if any("version" in (_schemas(document)[name].properties or {}) for name in _shown(response)):
            response.headers = {**(response.headers or {}), "ETag": _ETAG}
        if "422" in responses:
            response.headers = {**(response.headers or {}), "Idempotent-Replayed": _REPLAYED}


def _describe_limit(operation: Operation) -> None:
    responses = operation.responses or {}
    problem = next((r for r in responses.values() if isinstance(r, OpenAPIResponse) and _is_problem(r)), None)
    if problem is not None:
        responses["429"] = OpenAPIResponse(description="Too many requests", headers=_LIMIT, content=problem.content)
        operation.responses = dict(sorted(responses.items()))


def _is_problem(response: OpenAPIResponse) -> bool:
    return "application/problem+json" in (response.content or {})


def _security(handler: HTTPRouteHandler) -> list[dict[str, list[str]]]:
    """Say which credentials a route takes, and the permission they need as the name of a role (OpenAPI 3.1)."""
    credentials, permission = handler.opt.get("credentials", "required"), handler.opt["permission"]
    if credentials == "ignored":
        return []
    needed = [] if permission == PUBLIC else [permission.value]
    either: list[dict[str, list[str]]] = [{"bearer": needed}, {"apiKey": needed}]
    return [*either, {}] if permission == PUBLIC else either


def _is_empty(response: OpenAPIResponse) -> bool:
    contents = [content.schema for content in (response.content or {}).values()]
    return bool(contents) and all(isinstance(s, Schema) and s.type == OpenAPIType.NULL for s in contents)


def _shown(response: OpenAPIResponse) -> Iterator[str]:
    for content in (response.content or {}).values():
        if isinstance(content.schema, Reference):
            yield content.schema.ref.rpartition("/")[2]


def _exact(parameter: Parameter | Reference) -> Parameter | Reference:
    # The generator keeps bounds as floats, which cannot hold the largest id.
    if isinstance(parameter, Parameter) and isinstance(parameter.schema, Schema):
        for schema in (parameter.schema, *(s for s in parameter.schema.one_of or [] if isinstance(s, Schema))):
            if schema.maximum is not None:
                schema.maximum = min(int(schema.maximum), ID_MAX)
            if schema.minimum is not None:
                schema.minimum = int(schema.minimum)
    return parameter


def _schemas(document: OpenAPI) -> dict[str, Schema]:
    assert document.components.schemas is not None
    return document.components.schemas
