"""``LLMBatch`` in ``ds.map_batches``: every row comes back, also in an outage.

Slow: a Ray of its own, and data sets through it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from workers_server import Provider

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # a cluster, and data sets through it

HEAD = """
import json, logging, time, ray
from collections import Counter
from llmbatch import LLMBatch

ray.init(ADDRESS, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel("ERROR")

def through(count, batch_format="numpy", rows=None, **keywords):
    items = rows or [{"prompt": f"row {n}", "n": n} for n in range(1, count + 1)]
    ds = ray.data.from_items(items, override_num_blocks=8)
    told = {"model": "openai/m", "base_url": URL, "concurrency": 8, **keywords}
    return ds.map_batches(LLMBatch, fn_constructor_kwargs=told, batch_size=50, concurrency=2, num_cpus=0,
                          batch_format=batch_format)
"""


@pytest.fixture
def run(tmp_path: Path, cluster: Any, provider: Provider, quiet_ray: dict[str, str]) -> Any:
    """``run(script)`` starts a script behind ``HEAD``; gives the process."""

    def start(script: str) -> subprocess.Popen[str]:
        head = HEAD.replace("ADDRESS", repr(cluster.address)).replace("URL", repr(provider.url))
        command = [sys.executable, "-c", head + script]
        return subprocess.Popen(
            command, cwd=tmp_path, env=quiet_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def said(process: subprocess.Popen[str]) -> Any:
    """What a script has printed last, as JSON."""
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_every_row_comes_back_in_an_outage(run: Any, provider: Provider) -> None:
    """In which the provider is asked a few times, not once per batch and slot: batches of an actor share circuits."""
    provider.status = 200
    process = run("""
rows = through(1200, on_outage="defer").take_all()
statuses = Counter(row["status"] for row in rows)
numbers = sorted(row["n"] for row in rows)
print(json.dumps([statuses, numbers == list(range(1, 1201)), sorted({row["reason"] for row in rows if row["reason"]})]))
""")
    while provider.asked.total() < 300:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    provider.status, before = 503, provider.asked.total()

    statuses, is_whole, reasons = said(process)

    assert is_whole
    assert statuses["success"] >= 200
    assert statuses["success"] + statuses["deferred"] == 1200
    assert statuses["deferred"] > 500
    assert provider.asked.total() - before < 100
    assert reasons


def test_a_batch_waits_for_the_provider(run: Any, provider: Provider) -> None:
    """As a run does by default: then every row has its answer, in the columns that the page names."""
    process = run("""
rows = through(300, recovery_timeout=1.0).take_all()
print(json.dumps([Counter(row["status"] for row in rows), rows[0]]))
""")
    while provider.asked.total() < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    provider.status = 503
    time.sleep(4.0)
    provider.status = 200

    statuses, row = said(process)

    assert statuses == {"success": 300}
    assert row["text"] == "yes"
    assert (row["input_tokens"], row["output_tokens"], row["model"]) == (10, 5, "openai/m")
    assert {"error_code", "error_message", "reason", "retry_after", "cost_usd", "latency_s", "attempts"} <= row.keys()


def test_a_refused_key_defers_all_rows(run: Any, provider: Provider) -> None:
    """Each actor asks a few times and then no more; nothing is raised, so nothing is lost."""
    provider.status = 401

    statuses, reasons = said(
        run("""
rows = through(1000).take_all()
print(json.dumps([Counter(row["status"] for row in rows), sorted({row["reason"] for row in rows})]))
""")
    )

    assert statuses == {"deferred": 1000}
    assert provider.asked.total() <= 2 * 4 * 8
    assert any("refuse" in reason for reason in reasons)


@pytest.mark.parametrize("batch_format", ["numpy", "pandas", "pyarrow"])
def test_batches_of_each_format_give_the_same_table(
    tmp_path: Path, run: Any, provider: Provider, batch_format: str
) -> None:
    """Columns keep their types in files, though some batches have no value in them."""
    rows, types = said(
        run(f"""
items = [{{"question": f"row {{n}}{{' bad' if n > 100 else ''}}", "status": n}} for n in range(1, 201)]
ds = through(0, "{batch_format}", items, template="{{{{ question }}}}").materialize()
folder = {str(tmp_path / "out")!r}
ds.write_parquet(folder)
import pyarrow.parquet, pathlib
table = pyarrow.parquet.read_table(folder)
schemas = {{str(pyarrow.parquet.read_schema(path)) for path in pathlib.Path(folder).glob("*.parquet")}}
print(json.dumps([table.sort_by("status").to_pylist()[::199], len(schemas)], default=str))
""")
    )

    assert (rows[0]["status"], rows[0]["result_status"], rows[0]["text"]) == (1, "success", "yes")
    assert (rows[1]["status"], rows[1]["result_status"]) == (200, "failed")
    assert rows[1]["error_code"] == "context_length_exceeded"
    assert rows[1]["input_tokens"] is None or batch_format == "numpy"
    assert types == 1
