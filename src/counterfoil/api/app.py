"""The HTTP door on one screen: every controller, the guard, the errors, the API page."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Server
from litestar.types import ControllerRouterHandler

from counterfoil import __version__
from counterfoil.api.bodies import BODY_BYTES_MAX, ApiRequest
from counterfoil.api.card_data import check_query
from counterfoil.api.controllers.api_keys import ApiKeysController
from counterfoil.api.controllers.auth import AuthController
from counterfoil.api.controllers.callbacks import CallbacksController
from counterfoil.api.controllers.coupons import CouponsController
from counterfoil.api.controllers.fulfillments import FulfillmentsController, OrderFulfillmentsController
from counterfoil.api.controllers.inventory import InventoryController
from counterfoil.api.controllers.operations import OperationsController
from counterfoil.api.controllers.order_steps import OrderStepsController
from counterfoil.api.controllers.orders import OrdersController
from counterfoil.api.controllers.payments import PaymentsController
from counterfoil.api.controllers.privacy import PrivacyController
from counterfoil.api.controllers.products import ProductsController
from counterfoil.api.controllers.remarks import RemarksController
from counterfoil.api.controllers.returns import OrderReturnsController, ReturnsController
from counterfoil.api.controllers.users import UsersController
from counterfoil.api.description import ExactNumbers, complete_description
from counterfoil.api.errors import EXCEPTION_HANDLERS
from counterfoil.api.middleware.authentication import authenticate
from counterfoil.api.middleware.limits import limit_callers, limit_strangers
from counterfoil.api.page import DescriptionPage, make_assets_router
from counterfoil.api.queries import refuse_unknown_query
from counterfoil.api.route_table import list_routes


def make_api(
    *, state: dict[str, Any], lifespan: list[Any] | None = None, mounts: list[ControllerRouterHandler] | None = None
) -> Litestar:
    """Assemble the application. `state`: what controllers need (hot, access, limiter, both terms, draining)."""
    api = Router(
        "/",
        route_handlers=_controllers(),
        # From the outside in.
        middleware=[limit_strangers, authenticate, limit_callers, refuse_unknown_query, check_query],
        request_class=ApiRequest,
    )
    app = Litestar(
        route_handlers=[api, make_assets_router(), *(mounts or [])],
        state=State(state),
        lifespan=lifespan or [],
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=_openapi(),
        plugins=[ExactNumbers()],
        logging_config=None,
        debug=False,
    )
    list_routes(app)  # refuses a route without a rule
    complete_description(app)
    return app


def _controllers() -> list[ControllerRouterHandler]:
    """Return every controller there is."""
    return [
        AuthController,
        UsersController,
        PrivacyController,
        ApiKeysController,
        ProductsController,
        InventoryController,
        CouponsController,
        OrdersController,
        OrderStepsController,
        PaymentsController,
        CallbacksController,
        OrderFulfillmentsController,
        FulfillmentsController,
        OrderReturnsController,
        ReturnsController,
        RemarksController,
        OperationsController,
    ]


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Counterfoil",
        version=__version__,
        description="Orders that are never oversold and never lost. Every limited answer has `RateLimit-Limit`, "
        "`RateLimit-Remaining` and `RateLimit-Reset`.",
        path="/docs",
        servers=[Server(url="/")],
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    description="An access token (a JWT, from POST /api/v1/auth/token) or an API key.",
                ),
                "apiKey": SecurityScheme(
                    type="apiKey", name="X-API-Key", security_scheme_in="header", description="An API key, `cfk_…`."
                ),
            }
        ),
        render_plugins=[DescriptionPage()],
    )
