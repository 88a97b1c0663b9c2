"""An ASGI application for projects that have none: `application = cq.asgi.get_application()`."""

from typing import Any

from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.asgi import get_asgi_application


def get_application() -> ProtocolTypeRouter:
    """Return Django's application for HTTP, and CQ's consumer for its channel."""
    http = get_asgi_application()
    from cq.routing import channel_routing  # needs the apps that the line above has set up

    channels: Any = channel_routing
    return ProtocolTypeRouter({"http": http, "channel": ChannelNameRouter(channels)})
