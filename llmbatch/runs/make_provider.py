"""Makes a run's provider from the arguments of ``BatchRunner``: an HTTP provider, a function, or one's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from llmbatch.core.ports import Provider, Transport
from llmbatch.core.raw_json import dumps
from llmbatch.runner.options import Endpoint
from llmbatch.runs.local_simulator import LocalSimulator

__all__ = ["AsyncFunction", "ProviderArguments", "is_provider"]

AsyncFunction = Callable[[Any], Awaitable[object]]


def is_provider(model: object) -> bool:
    """Whether *model* is a provider rather than a function: it has the methods of one."""
    return all(callable(getattr(model, name, None)) for name in ("routes", "request", "call"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderArguments:
    """What :class:`~llmbatch.runs.batch_runner.BatchRunner` was told about the provider."""

    model: str | AsyncFunction | Provider | None
    base_url: str | None
    proxy: str | None
    api_key_env: str | None
    headers: Mapping[str, str]
    endpoint: Endpoint | None
    system: str | None
    params: Mapping[str, object]
    canary: object
    max_answer_memory: int
    environ: Mapping[str, str]
    transport: Transport | None

    def make(
        self,
        host: LocalSimulator,
        *,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Provider:
        """A provider for one run; *host* answers the rows of ``sim/…`` models.

        *before_sending* is called before requests are written to a connection, *warn* with each warning.

        Raises:
            UsageError: a value is out of range, or the callable is not async.
        """
        if self.model is not None and not isinstance(self.model, str):
            if is_provider(self.model):
                return cast("Provider", self.model)
            from llmbatch.providers.function_provider import FunctionProvider

            return FunctionProvider(cast("AsyncFunction", self.model), ping_row=self.canary)
        from llmbatch.providers.http_provider import HttpProvider
        from llmbatch.providers.resolve import ProviderSettings

        settings = ProviderSettings(
            model=self.model,
            base_url=self.base_url,
            proxy=self.proxy,
            api_key_env=self.api_key_env,
            headers=self.headers,
            endpoint=self.endpoint,
            system=self.system,
            params={name: dumps(value) for name, value in self.params.items()},
            environ=self.environ,
            sim_url=host.url,
            sim_scenarios=None if self.transport is not None else host.scenarios,
        )
        if self.transport is not None:
            return HttpProvider(settings, self.transport, warn=warn)
        return HttpProvider.over_http(
            settings, before_sending=before_sending, warn=warn, max_answer_memory=self.max_answer_memory
        )
