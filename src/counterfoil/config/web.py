"""The entry of a web process, named to the server by `counterfoil serve`."""

from __future__ import annotations

import os

import django

from counterfoil.infrastructure.process import die_with_parent, forget_claims

if "COUNTERFOIL_SERVE_PID" in os.environ:
    die_with_parent(parent=int(os.environ["COUNTERFOIL_SERVE_PID"]))
    forget_claims()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counterfoil.config.settings")
django.setup()

from counterfoil.config.asgi import make_application  # noqa: E402 - models can be imported only after setup()

application = make_application()
