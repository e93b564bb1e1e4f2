"""What can go wrong with the catalogue."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict, NotFound


class ProductNotFound(NotFound):
    """There is no such product."""

    code = "PRODUCT_NOT_FOUND"


class SkuTaken(Conflict):
    """Another product has the SKU {sku} already."""

    code = "SKU_TAKEN"


class ProductChanged(Conflict):
    """The product has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "PRODUCT_CHANGED"
