"""The catalogue over HTTP."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter

from counterfoil.api.answers import (
    AnyRequest,
    answer,
    if_match,
    next_page,
    open_cursor,
    problems,
    request_id,
    write,
    write_once,
)
from counterfoil.api.middleware.authentication import current_actor, optional_actor
from counterfoil.api.schemas.fields import ID_MAX, parse_money
from counterfoil.api.schemas.products import ProductIn, ProductOut, ProductPage, parse_tax_rate, render_product
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.inventory import services as inventory
from counterfoil.products import services
from counterfoil.users.permissions import PUBLIC, Permission, may

ProductId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The product's id.")]


class ProductsController(Controller):
    """Create, read, update, delete and list products. Reading is public; changes are for managers."""

    path = "/api/v1/products"
    tags = ["Products"]

    @get(
        summary="List products",
        responses=problems(400, 401, 503),
        permission=PUBLIC,
        credentials="optional",
        sync_to_thread=True,
    )
    def list_products(
        self,
        request: AnyRequest,
        q: Annotated[str | None, Parameter(min_length=1, max_length=100, pattern=r"^[^\x00]*$")] = None,
        category: Annotated[str | None, Parameter(max_length=120, pattern=r"^[^\x00]*$")] = None,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[ProductPage]:
        """Answer one page in the order of creation; inactive products are shown to managers only."""
        found = run_in_thread(
            services.list_products,
            text=q,
            category=category,
            include_inactive=_may_change(request),
            after=int(open_cursor(request, cursor) or 0),
            limit=limit + 1,
        )
        shown = found[:limit]
        cursor_out, address = next_page(request, str(shown[-1].id) if len(found) > limit else None)
        return answer(ProductPage([render_product(product) for product in shown], cursor_out, address))

    @get(
        "/{product_id:int}",
        summary="Read a product",
        responses=problems(400, 401, 404, 503),
        permission=PUBLIC,
        credentials="optional",
        sync_to_thread=True,
    )
    def get_product(self, request: AnyRequest, product_id: ProductId) -> Response[ProductOut]:
        """Answer the product with its ETag."""
        product = run_in_thread(services.find_product, product_id, include_inactive=_may_change(request))
        return answer(render_product(product), etag=product.etag)

    @post(
        summary="Create a product",
        responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
        permission=Permission.CATALOGUE_WRITE,
        sync_to_thread=True,
    )
    def create_product(self, request: AnyRequest, data: ProductIn) -> Response[ProductOut]:
        """Create a product with nothing in stock; receive some with an inventory movement."""
        actor = current_actor(request)
        new = services.NewProduct(
            data.sku,
            data.name,
            data.description,
            data.category,
            parse_money(data.price, data.currency, field="price"),
            data.active,
            parse_tax_rate(data.tax_rate or "0"),
        )

        def create() -> ProductOut:
            product = services.create_product(new, actor=actor.principal, request_id=request_id(request))
            inventory.open_level(product.id, allow_backorder=bool(data.allow_backorder))
            return render_product(product)

        return write_once(request, data, create)

    @put(
        "/{product_id:int}",
        summary="Replace a product",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.CATALOGUE_WRITE,
        sync_to_thread=True,
    )
    def replace_product(self, request: AnyRequest, product_id: ProductId, data: ProductIn) -> Response[ProductOut]:
        """Replace all values; placed orders keep the price and tax they were placed at."""
        actor = current_actor(request)
        new_values = {
            "sku": data.sku,
            "name": data.name,
            "description": data.description,
            "category": data.category,
            "price": parse_money(data.price, data.currency, field="price"),
            "active": data.active,
        }
        if data.tax_rate is not None:
            new_values["tax_rate"] = parse_tax_rate(data.tax_rate)

        def replace() -> services.ProductRecord:
            product = services.replace_product(
                product_id,
                new_values=new_values,
                etag=if_match(request),
                actor=actor.principal,
                request_id=request_id(request),
            )
            if data.allow_backorder is not None:
                inventory.set_backorder(product_id, allow=data.allow_backorder)
            return product

        product: services.ProductRecord = write(replace)
        return answer(render_product(product), etag=product.etag)

    @delete(
        "/{product_id:int}",
        summary="Delete a product",
        responses=problems(400, 401, 403, 404, 412, 503),
        permission=Permission.CATALOGUE_WRITE,
        sync_to_thread=True,
    )
    def delete_product(self, request: AnyRequest, product_id: ProductId) -> None:
        """Take a product out of the catalogue; past orders keep it."""
        actor = current_actor(request)
        write(
            lambda: services.delete_product(
                product_id, etag=if_match(request), actor=actor.principal, request_id=request_id(request)
            )
        )


def _may_change(request: AnyRequest) -> bool:
    actor = optional_actor(request)
    return actor is not None and may(actor, Permission.CATALOGUE_WRITE)
