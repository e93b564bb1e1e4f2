"""Counterfoil: an order service that proves its promises."""

__version__ = "0.1.0"
