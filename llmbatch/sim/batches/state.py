"""What both simulated batch APIs share: the batches and files that exist, the rules that apply, and counts of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from llmbatch.core.raw_json import JSON
from llmbatch.sim.batches.batch import Batch, BatchOrder, Engine
from llmbatch.sim.batches.files import FileStore
from llmbatch.sim.batches.rows import RowTable
from llmbatch.sim.batches.rules import BatchCall, BatchRules
from llmbatch.sim.protocol import Dialect

__all__ = ["BatchState", "BatchStats", "ControlCall"]


@dataclass(frozen=True, slots=True)
class ControlCall:
    """One call of the control plane. ``now`` is the provider's clock, in seconds; ``origin`` where it was sent to."""

    name: BatchCall | None
    object_id: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    now: float
    origin: str
    suffix: str
    """Ends the request id."""


@dataclass(slots=True)
class BatchStats:
    """Counts of control plane calls, and what became of the batches. ``log`` has time, call and status of each call.

    The status is 0 for a call without an answer.
    """

    log: list[tuple[float, BatchCall, int]] = field(default_factory=list)
    batches: int = 0
    rows: int = 0
    """Rows of all batches that were made, whatever became of them."""

    def calls(self, name: BatchCall | None = None, *, since: float = 0.0, until: float | None = None) -> int:
        """Calls of that *name* (None: all) that came from *since* on, before *until*."""
        return sum(
            (name is None or call == name) and since <= now and (until is None or now < until)
            for now, call, _ in self.log
        )

    def json(self) -> dict[str, JSON]:
        """The counts as a JSON object."""
        calls: dict[str, JSON] = {}
        for name in sorted({call for _, call, _ in self.log}):
            calls[name] = self.calls(name)
        return {"batches": self.batches, "rows": self.rows, "calls": calls}


class BatchState:
    """The batches and files of a provider. *rules_of* gives the rules of a model's scenario, None if it has none.

    *usual*: the rules where no scenario has any.
    """

    def __init__(
        self,
        rules_of: Callable[[str | None], BatchRules | None],
        engine: Engine,
        *,
        usual: BatchRules,
        seed: int,
        epoch: float,
    ) -> None:
        self.batches: list[Batch] = []
        """Oldest first."""
        self.files = FileStore(seed)
        self.stats = BatchStats()
        self.epoch = epoch
        """Unix time of the clock's zero."""
        self.seed = seed
        self.engine = engine
        self.creations = 0
        """Calls of create."""
        self.uploads = 0
        self.started: float | None = None
        """When the first call came."""
        self._rules_of = rules_of
        self._usual = usual
        self._recent: BatchRules | None = None
        self._times: dict[str, int] = {}

    def rules(self, model: str) -> BatchRules:
        """The rules of batches of *model*."""
        self._recent = self._rules_of(model) or self._usual
        return self._recent

    @property
    def general_rules(self) -> BatchRules:
        """The rules of calls that belong to no batch: of the provider's own scenario, else those used last."""
        return self._rules_of(None) or self._recent or self._usual

    def create(self, dialect: Dialect, rows: RowTable, order: BatchOrder, rules: BatchRules, now: float) -> Batch:
        """Make a batch."""
        number = len(self.batches) + 1
        digits = f"{Random(f'{self.seed}:batch id:{number}').getrandbits(128):032x}"
        batch_id = f"msgbatch_{digits}" if dialect == "anthropic" else f"batch_{digits}"
        batch = Batch(batch_id, number, dialect, rows, order, rules, seed=self.seed, created=now)
        self.batches.append(batch)
        self.stats.batches += 1
        self.stats.rows += len(rows)
        return batch

    def find(self, dialect: Dialect, batch_id: str) -> Batch | None:
        """The batch of that id."""
        return next((each for each in self.batches if each.id == batch_id and each.dialect == dialect), None)

    def queued(self, model: str, now: float) -> tuple[int, int]:
        """Rows of all batches that have not ended, and input tokens of those of *model*."""
        for batch in self.batches:
            batch.advance(now, self.engine)
        waiting = [batch for batch in self.batches if not batch.is_ended]
        rows = sum(len(batch.rows) for batch in waiting)
        return rows, sum(batch.rows.tokens for batch in waiting if batch.rows.model == model)

    def is_first(self, key: str, times: int) -> bool:
        """Whether this is one of the first *times* calls with that *key*."""
        self._times[key] = self._times.get(key, 0) + 1
        return self._times[key] <= times
