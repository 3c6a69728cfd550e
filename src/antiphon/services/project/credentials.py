"""Credentials of stores: never in a file of settings, always in an environment variable that a setting names."""

from __future__ import annotations

import os
from pathlib import Path

from antiphon.catalog.postgres_server import PostgresAccess
from antiphon.core.errors import SetupError
from antiphon.core.outgoing import require_no_secret
from antiphon.core.settings_sections import CatalogSettings, FeaturesSettings
from antiphon.core.tls import ClientTls, client_tls
from antiphon.features.streaming.nats_access import Access


def secret(variable: str | None, field: str, section: str = "features") -> str | None:
    """Reads the environment variable that a setting names; ``None`` when it names none.

    Raises:
        SetupError: it is not set.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise SetupError(
            f"The environment variable {variable} is not set.",
            where=f"[{section}] {field}",
            next_step="Set it where the gateway and the worker start.",
        )
    return value


def online_tls(features: FeaturesSettings, root: Path) -> ClientTls:
    """Returns the TLS files for the online store's server; paths are relative to the project's folder."""
    return client_tls(root, features.online_authority, features.online_client_certificate, features.online_client_key)


def catalog_access(catalog: CatalogSettings, root: Path) -> PostgresAccess:
    """Returns how a catalog on PostgreSQL is opened.

    Raises:
        SetupError: the variable that the settings name is not set.
        InvalidInputError: the URL holds a password.
    """
    if catalog.url is not None:
        require_no_secret(catalog.url, where="[catalog] url", variable="password_variable")
    return PostgresAccess(
        password=secret(catalog.password_variable, "password_variable", "catalog"),
        schema=catalog.schema,
        connections=catalog.connections,
        tls=client_tls(root, catalog.authority, catalog.client_certificate, catalog.client_key),
    )


def log_access(features: FeaturesSettings, root: Path) -> Access:
    """Returns the credentials for the event log's server and the authority to verify it by.

    Raises:
        SetupError: a variable that the settings name is not set.
    """
    return Access(
        password=secret(features.log_password_variable, "log_password_variable"),
        file=None if features.log_credentials is None else root / features.log_credentials,
        text=secret(features.log_credentials_variable, "log_credentials_variable"),
        tls=client_tls(root, features.log_authority, features.log_client_certificate, features.log_client_key),
    )
