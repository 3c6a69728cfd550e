"""Choice of the key provider that a project's settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.settings_sections import EncryptionSettings
from antiphon.governance.encryption.key_provider import EnvironmentKeys, KeyProvider
from antiphon.governance.encryption.keyring import FileKeyring
from antiphon.governance.encryption.kms import KmsKeys


def provider_of(settings: EncryptionSettings, root: Path, environment: Mapping[str, str] | None = None) -> KeyProvider:
    """The provider a project's settings name.

    Args:
        root: where the keyring's relative path starts.
        environment: variables; this process's by default.

    Raises:
        SetupError: the variable named by ``secret`` is not set, or the keyring is missing.
        InvalidInputError: a KMS without URL.
    """
    variables = os.environ if environment is None else environment
    if settings.provider == "file":
        return FileKeyring(root / settings.keyring, secret_in(variables, settings.secret, "the keyring's passphrase"))
    if settings.provider == "environment":
        return EnvironmentKeys(secret_in(variables, settings.secret, "the wrapping key"), settings.secret)
    if settings.url is None:
        raise InvalidInputError(
            "A key service needs its URL.", where="antiphon.toml, [encryption]", next_step='Set url = "https://…".'
        )
    return KmsKeys(settings.url, secret_in(variables, settings.secret, "the key service's bearer token"))


def secret_in(variables: Mapping[str, str], name: str, what: str) -> str:
    """The value of a variable.

    Raises:
        SetupError: it is not set, or empty.
    """
    value = variables.get(name, "")
    if not value:
        raise SetupError(
            f"The environment variable {name} is not set: it holds {what}.",
            where="antiphon.toml, [encryption] secret",
            next_step=f"Set {name} for every process of the project. Without it nothing stored can be read.",
        )
    return value
