"""Makes a run's provider from the arguments of ``BatchRunner``: an HTTP provider, a function, or one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import UsageError
from llmbatch.core.ports import Provider, Transport
from llmbatch.core.raw_json import dumps
from llmbatch.inputs.shape import RowShape
from llmbatch.runner.keywords import check_keywords, check_mapping, check_texts
from llmbatch.runner.options import Tier
from llmbatch.runs.local_simulator import LocalSimulator

if TYPE_CHECKING:
    from llmbatch.breaker.classify import ErrorJudge, ResultJudge
    from llmbatch.providers.structured.schema import AnswerSchema

__all__ = ["ProviderArguments", "RowFunction", "is_provider", "loaded"]

RowFunction = Callable[[Any], object]
"""``async def call(row)``, or a plain function."""


def is_provider(model: object) -> bool:
    """Whether *model* is a provider rather than a function: its class has the methods of one.

    An object that has any attribute that is asked for, such as a mock of a function, is none.
    """
    return all(callable(getattr(type(model), name, None)) for name in ("routes", "request", "call"))


def loaded(schema: object) -> AnswerSchema | None:
    """The schema that ``BatchRunner`` was given, ready to check answers.

    Raises:
        UsageError: it is none.
    """
    if schema is None:
        return None
    from llmbatch.providers.structured.load import load_schema

    return load_schema(schema)


_TRANSPORT = ("post", "aclose")
"""Methods of a transport."""


def _as_json(name: str, value: object) -> str:
    try:
        return dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"params: {name} cannot be sent as JSON: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderArguments:
    """What :class:`~llmbatch.runs.batch_runner.BatchRunner` was told about the provider."""

    model: str | RowFunction | Provider | None
    base_url: str | None
    proxy: str | None
    api_key_env: str | None
    headers: Mapping[str, str]
    endpoint: Endpoint | None
    system: str | None
    shape: RowShape
    params: Mapping[str, object]
    fallback: Sequence[str]
    tier: Tier
    pools: Mapping[str, object]
    cache: str | None
    allow_files: str | None
    server_files: bool
    schema: AnswerSchema | None
    schema_lenient: bool
    repair: int
    require_finish: bool
    canary: object
    max_answer_memory: int
    environ: Mapping[str, str]
    transport: Transport | None
    judge_error: ErrorJudge | None
    judge_result: ResultJudge | None

    def __post_init__(self) -> None:
        check_keywords(schema_lenient=self.schema_lenient, repair=self.repair)
        check_texts(base_url=self.base_url, proxy=self.proxy, api_key_env=self.api_key_env, system=self.system)
        check_mapping("params", self.params)
        check_mapping("environ", self.environ, str)
        if self.transport is not None and not all(callable(getattr(self.transport, it, None)) for it in _TRANSPORT):
            hint = "a transport has the async methods post(request, timeout=…) and aclose()"
            raise UsageError(f"transport is {self.transport!r:.80}, which is none", hint=hint)

    def make(
        self,
        host: LocalSimulator,
        *,
        threads: int,
        before_sending: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Provider:
        """A provider for one run; *host* answers the rows of ``sim/…`` models.

        *threads* bounds those of a function that is not async. *before_sending* is called before requests are written
        to a connection, *warn* with each warning.

        Raises:
            UsageError: a value is out of range, or *model* is of none of these kinds.
        """
        is_function = self.model is not None and not isinstance(self.model, str) and not is_provider(self.model)
        if (self.fallback or self.pools) and self.model is not None and not isinstance(self.model, str):
            name = "fallback" if self.fallback else "pools"
            raise UsageError(f"{name} is for models of providers, and a function is given", hint=f"leave out {name}")
        if self.cache is not None and self.model is not None and not isinstance(self.model, str):
            raise UsageError("cache is for models of providers, and a function is given", hint="leave out cache")
        if self.schema is not None and self.model is not None and not isinstance(self.model, str):
            raise UsageError("schema is for models of providers, and a function is given", hint="leave out schema")
        if self.tier != "standard" and self.model is not None and not isinstance(self.model, str):
            raise UsageError("tier is for models of providers, and a function is given", hint="leave out tier")
        if (self.allow_files is not None or self.server_files) and not isinstance(self.model, str | None):
            name = "server_files" if self.server_files else "allow_files"
            raise UsageError(f"{name} is for models of providers, and a function is given", hint="leave it out")
        made = self.shape.template or self.shape.prompt_column or self.shape.system_column
        if made is not None and self.model is not None and not isinstance(self.model, str):
            raise UsageError(
                "a template or a column for the prompt is for models of providers, and a function is given",
                hint="leave it out: the function gets every column of a record",
            )
        if is_function:
            return self._of_function(threads)
        if self.judge_error is not None or self.judge_result is not None:
            name = "judge_result" if self.judge_error is None else "judge_error"
            raise UsageError(f"{name} judges the calls of a function, and none is given", hint=f"leave out {name}")
        if self.model is not None and not isinstance(self.model, str):
            return cast("Provider", self.model)
        from llmbatch.providers.http_provider import HttpProvider
        from llmbatch.providers.pools import make_providers, read_pools
        from llmbatch.providers.resolve import ProviderSettings, tiers_of

        settings = ProviderSettings(
            model=self.model,
            base_url=self.base_url,
            proxy=self.proxy,
            api_key_env=self.api_key_env,
            headers=self.headers,
            endpoint=self.endpoint,
            system=self.system,
            shape=self.shape.settings,
            params={name: _as_json(name, value) for name, value in self.params.items()},
            environ=self.environ,
            allow_files=self.allow_files,
            server_files=self.server_files,
            tiers=tiers_of(self.tier),
            schema=self.schema,
            sim_url=host.url,
            sim_scenarios=None if self.transport is not None else host.scenarios,
        )

        def make(of: ProviderSettings) -> HttpProvider:
            if self.transport is not None:
                return HttpProvider(of, self.transport, warn=warn)
            return HttpProvider.over_http(
                of, before_sending=before_sending, warn=warn, max_answer_memory=self.max_answer_memory
            )

        return self._wrapped(
            make_providers(settings, make, fallback=self.fallback, pools=read_pools(self.pools, "pools")), warn
        )

    def _wrapped(self, provider: Provider, warn: Callable[[str], None]) -> Provider:
        """*provider* with the check of answers, and the cache around that: it holds what fits."""
        admit = None
        if self.schema is not None:
            from llmbatch.providers.structured.checked import CheckedProvider

            checked = CheckedProvider(provider, self.schema, lenient=self.schema_lenient, repair=self.repair, warn=warn)
            provider, admit = checked, checked.admit
        if self.cache is None:
            return provider
        from llmbatch.providers.cache import CachingProvider

        return CachingProvider(provider, self.cache, require_finish=self.require_finish, admit=admit, warn=warn)

    def _of_function(self, threads: int) -> Provider:
        from llmbatch.core.secrets import Mask
        from llmbatch.providers.catalog import KEY_VARIABLES
        from llmbatch.providers.function_provider import FunctionProvider

        names = (*KEY_VARIABLES, self.api_key_env or "")
        mask = Mask(self.environ[name] for name in names if self.environ.get(name))
        judge_error = judge_result = None
        if self.judge_error is not None or self.judge_result is not None:
            from llmbatch.runs.judges import check_judge, error_judge, result_judge

            check_judge("judge_error", self.judge_error)
            check_judge("judge_result", self.judge_result)
            judge_error, judge_result = error_judge(self.judge_error, mask), result_judge(self.judge_result, mask)
        return FunctionProvider(
            cast("RowFunction", self.model),
            ping_row=self.canary,
            threads=threads,
            judge_error=judge_error,
            judge_result=judge_result,
            mask=mask,
        )
