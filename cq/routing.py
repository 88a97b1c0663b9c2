"""For projects that route channels themselves: `ChannelNameRouter({**channel_routing, …})`."""

from cq.consumers import CQConsumer
from cq.notifier import CHANNEL

channel_routing = {CHANNEL: CQConsumer.as_asgi()}
