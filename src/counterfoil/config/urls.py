"""Django's part of the URL space: the operators' console."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from counterfoil.console.login_page import show_login_page

urlpatterns = [path("console/login/", show_login_page), path("console/", admin.site.urls)]
