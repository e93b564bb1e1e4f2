"""Django's part of the URL space: the operators' console."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from counterfoil.console.sign_in import sign_in

urlpatterns = [path("console/login/", sign_in), path("console/", admin.site.urls)]
