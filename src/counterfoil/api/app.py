"""The HTTP door on one screen: every controller, the guard, the errors, the API page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import drf_spectacular_sidecar
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Server
from litestar.static_files import create_static_files_router
from litestar.types import ControllerRouterHandler

from counterfoil import __version__
from counterfoil.api.bodies import BODY_BYTES_MAX, ApiRequest
from counterfoil.api.controllers.api_keys import ApiKeysController
from counterfoil.api.controllers.auth import AuthController
from counterfoil.api.controllers.inventory import InventoryController
from counterfoil.api.controllers.operations import OperationsController
from counterfoil.api.controllers.orders import OrdersController
from counterfoil.api.controllers.privacy import PrivacyController
from counterfoil.api.controllers.products import ProductsController
from counterfoil.api.controllers.users import UsersController
from counterfoil.api.description import ExactNumbers, complete_description
from counterfoil.api.errors import EXCEPTION_HANDLERS
from counterfoil.api.middleware.authentication import authenticate
from counterfoil.api.route_table import list_routes

_SWAGGER = Path(drf_spectacular_sidecar.__file__).parent / "static/drf_spectacular_sidecar/swagger-ui-dist"


def make_api(
    *, state: dict[str, Any], lifespan: list[Any] | None = None, mounts: list[ControllerRouterHandler] | None = None
) -> Litestar:
    """Assemble the application. `state` holds what the controllers need: hot, access, hold_seconds, draining."""
    api = Router(
        "/",
        route_handlers=[
            AuthController,
            UsersController,
            PrivacyController,
            ApiKeysController,
            ProductsController,
            InventoryController,
            OrdersController,
            OperationsController,
        ],
        middleware=[authenticate],
        request_class=ApiRequest,
    )
    swagger = create_static_files_router(path="/docs/assets", directories=[_SWAGGER], include_in_schema=False)
    app = Litestar(
        route_handlers=[api, swagger, *(mounts or [])],
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


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Counterfoil",
        version=__version__,
        description="Orders that are never oversold and never lost.",
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
        render_plugins=[
            SwaggerRenderPlugin(
                js_url="/docs/assets/swagger-ui-bundle.js",
                css_url="/docs/assets/swagger-ui.css",
                standalone_preset_js_url="/docs/assets/swagger-ui-standalone-preset.js",
                favicon='<link rel="icon" href="/docs/assets/favicon-32x32.png">',
            )
        ],
    )
