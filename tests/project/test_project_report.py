"""Peak memory and size of ``llmbatch report`` over many rows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# What a process's parent had counts in os.wait4, so the process reads its own peak.
COMMAND = """
import sys
from pathlib import Path
from llmbatch.cli import main
code = main()
print(Path("/proc/self/status").read_text(), file=sys.stderr)
sys.exit(code)
"""
LINE = (
    '{{"row":{row},"hash":"{row:016x}","status":"success","id":"r{row}","custom_id":"r{row}",'
    '"response":{{"status_code":200,"request_id":null,"body":{{"choices":[{{"message":{{"content":"{text}"}}}}]}}}},"error":null,"text":"{text}",'
    '"usage":{{"input_tokens":{row},"output_tokens":9}},"cost_usd":0.0001,"model":"p/m","attempts":1,"deferrals":0,'
    '"latency_s":{row}.5,"metadata":null}}\n'
)
FAILED = (
    '{{"row":{row},"hash":"{row:016x}","status":"failed","id":"r{row}","custom_id":"r{row}","response":null,'
    '"error":{{"code":"code_{row}","message":"message {row}"}},"text":null,"usage":null,'
    '"cost_usd":null,"model":"p/m{row}","attempts":3,'
    '"deferrals":0,"latency_s":null,"metadata":null}}\n'
)


def peak_mb(folder: Path, rows: int) -> float:
    """The peak of a report over *rows* rows, each slower than all before; every tenth has a new code and route."""
    output = folder / f"{rows}.jsonl"
    with output.open("w") as file:
        for row in range(1, rows + 1):
            file.write((LINE if row % 10 else FAILED).format(row=row, text="word " * 20))
    words = [sys.executable, "-c", COMMAND, "report", output.name]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / f"{rows}.report.html").stat().st_size < 2_000_000
    return int(re.findall(r"VmHWM:\s+([0-9]+) kB", done.stderr)[0]) / 1024


@pytest.mark.slow  # 220,000 rows, some 5 s
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read a process's peak")
def test_ten_times_the_rows_take_the_same_memory(tmp_path: Path) -> None:
    """At most 10 bytes per row more, of which four are the row's hash; under 70 MB."""
    few, many = peak_mb(tmp_path, 20_000), peak_mb(tmp_path, 200_000)

    assert (many - few) * 1e6 <= 10 * 180_000 + 3e6, (few, many)
    assert many < 70
