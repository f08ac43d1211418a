from django.contrib import admin
from django.urls import path

from tests.support.django_project.warehouse import views

urlpatterns = [path("admin/", admin.site.urls), path("items", views.items), path("aitems", views.async_items)]
