"""Typed clients of the endpoint: `Client`, and `AsyncClient` for asyncio."""

from sdavs_serve.client.asynchronous import AsyncClient
from sdavs_serve.client.calls import EndpointError, Progress, Retries, save_mask
from sdavs_serve.client.sync import Client

__all__ = ["AsyncClient", "Client", "EndpointError", "Progress", "Retries", "save_mask"]
