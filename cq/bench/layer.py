"""Whether the channel layer carries hints."""

from __future__ import annotations

import asyncio

from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from cq import notifier

_ANSWER_WITHIN = 3.0


def trouble() -> str | None:
    """Say in a few words why hints do not reach other processes; None if they do."""
    layer = notifier.layer()
    if layer is None:
        return "none is configured"
    if isinstance(layer, InMemoryChannelLayer):
        return "it is in memory and does not reach other processes"
    try:
        asyncio.run(_send_to_ourselves(layer))
    except Exception as error:  # a layer may raise anything
        return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return None


async def _send_to_ourselves(layer: BaseChannelLayer) -> None:
    async with asyncio.timeout(_ANSWER_WITHIN):
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "cq.bench"})
        await layer.receive(channel)
