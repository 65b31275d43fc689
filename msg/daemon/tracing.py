"""OpenTelemetry from the daemon's side: whether the extra is there, the start, and the end."""

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from msg import __version__
from msg.config import ConfigError, Settings

if TYPE_CHECKING:
    from msg.actors.broker import Broker

LIBRARY = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
FLUSH_SECONDS = 2.0  # a stop waits no longer for a collector that does not answer


def check(settings: Settings) -> None:
    """Raises ConfigError when spans are asked for and what makes them is not installed."""
    if settings.otel == "off":
        return
    try:
        found = find_spec(LIBRARY) is not None
    except ModuleNotFoundError:  # a package above it
        found = False
    if not found:
        raise ConfigError([
            f"{settings.origin('otel')}: otel = {settings.otel!r} needs OpenTelemetry, which is"
            " not installed: pip install 'trio-msg[otel]'"
        ])  # fmt: skip


def start(broker: "Broker", settings: Settings) -> Callable[[], None]:
    """Begin to export spans. What is returned ends it."""
    from msg import spans

    running = spans.start(broker, settings.otel, __version__)

    def stop() -> None:
        last = threading.Thread(target=running.stop, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)

    return stop
