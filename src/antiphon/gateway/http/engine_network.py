"""The network of an engine's process: its listener, and the certificates that it shows and demands there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from antiphon.core.clock import SystemClock
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings_sections import EngineSettings, FrontsSettings
from antiphon.engine.api.address import parse_host_port
from antiphon.engine.api.listener import NetworkListener
from antiphon.gateway.http.transport_security import TlsFiles, TransportSecurity


class EngineNetwork(NamedTuple):
    """A process's listener on the network, and the certificates that it shows and demands there."""

    listener: NetworkListener
    transport: TransportSecurity

    @classmethod
    def of(cls, listen: str, section: EngineSettings | FrontsSettings, name: str, root: Path) -> EngineNetwork:
        """The network of ``HOST:PORT`` by the certificates of a section.

        Raises:
            InvalidInputError: the address or the certificates cannot be used.
        """
        host, port = parse_host_port(listen, "--listen")
        transport = TransportSecurity(engine_files(section, name, root), SystemClock(), role="engine")
        listener = NetworkListener(host, port, transport.context)
        transport.on_client_ca = listener.end_connections
        return cls(listener, transport)


def engine_files(section: EngineSettings | FrontsSettings, name: str, root: Path) -> TlsFiles:
    """The certificate files of an engine that listens on the network, which demands certificates of clients.

    Raises:
        InvalidInputError: the settings do not name them all.
    """
    missing = [file for file in ("certificate", "key", "authority") if getattr(section, file) is None]
    if section.certificate is None or section.key is None or section.authority is None:
        raise InvalidInputError(
            f"An engine that listens on the network needs `{'`, `'.join(missing)}`.",
            where=f"antiphon.toml, [{name}]",
            next_step="`antiphon tls init --engines` makes certificates and says what to write.",
        )
    return TlsFiles(root / section.certificate, root / section.key, root / section.authority, require_client=True)
