"""Where Django looks for the console's pages."""

import counterfoil.console.coupons
import counterfoil.console.findings
import counterfoil.console.money
import counterfoil.console.order_parts
import counterfoil.console.sites  # noqa: F401 - importing registers them
