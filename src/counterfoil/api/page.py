"""The API's description for people, at /docs: Swagger UI from files of this host, without a script in the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import drf_spectacular_sidecar
from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.static_files import create_static_files_router

_SWAGGER: Final = Path(drf_spectacular_sidecar.__file__).parent / "static/drf_spectacular_sidecar/swagger-ui-dist"
_OURS: Final = Path(__file__).parent / "assets"
ASSETS_PATH: Final = "/docs/assets"
_PAGE: Final = f"""<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Counterfoil</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <link rel="icon" href="{ASSETS_PATH}/favicon-32x32.png">
    <link rel="stylesheet" href="{ASSETS_PATH}/swagger-ui.css">
    <script src="{ASSETS_PATH}/swagger-ui-bundle.js"></script>
    <script src="{ASSETS_PATH}/swagger-ui-standalone-preset.js"></script>
    <script src="{ASSETS_PATH}/docs.js"></script>
  </head>
  <body>
    <div id="swagger-container"></div>
  </body>
</html>
"""


class DescriptionPage(OpenAPIRenderPlugin):
    """Renders the page, which loads the description by itself."""

    def __init__(self) -> None:
        """Serve it at the root of the description's path."""
        super().__init__(path="/swagger")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - Litestar's signature
        """Return the page."""
        return _PAGE.encode()


def make_assets_router() -> Any:
    """Make the router of the page's files."""
    return create_static_files_router(path=ASSETS_PATH, directories=[_OURS, _SWAGGER], include_in_schema=False)
