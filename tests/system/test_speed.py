"""Ratios that must hold on any machine, in one run and generously; `benchmarks/` has the figures."""

from __future__ import annotations

import json

import pytest

from tests.system.harness import Project

SLEEP_S = 0.25


@pytest.mark.timeout(120)
def test_four_agents_outrun_one_at_a_time(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """On sleeping tasks four agents reach nearly four times the throughput of --sync, start-up included."""
    rate = {}
    for name, count, form in (("sync", 16, ["--sync"]), ("async", 80, ["--agents", "4"])):
        project.tasks(
            [
                {"key": f"{name}{n}", "command": ["sleep", str(SLEEP_S)], "workspace": "none", "phases": ["apply"]}
                for n in range(count)
            ],
            name=f"{name}.jsonl",
        )
        done = project.hive("run", f"{name}.jsonl", *form, "--json", "--progress", "none")
        assert done.returncode == 0, done.stderr
        rate[name] = count / json.loads(done.stdout)["wall_s"]
    with capsys.disabled():
        print(
            f"\nsleeping tasks/s: {rate['sync']:.2f} with --sync, {rate['async']:.2f} at 4 agents: "
            f"{rate['async'] / rate['sync']:.2f} times"
        )
    assert rate["async"] / rate["sync"] > 3.0
