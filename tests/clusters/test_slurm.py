"""clusters/slurm.sbatch with stand-ins for srun and scontrol: two nodes of Ray, real ones, on this machine."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

SRUN = """#!{python}
import json, os, socket, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(words) + "\\n")
while words and words[0].startswith("--"):
    words.pop(0)
if words[0] == "hostname":
    print("127.0.0.1 10.0.0.9")
    sys.exit()
if os.environ.get("BROKEN"):
    sys.exit(1)
ports = []
for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"):
    ports.append(socket.socket())
    ports[-1].bind(("127.0.0.1", 0))
    words.append("--%s=%d" % (name, ports[-1].getsockname()[1]))
if "--head" in words:
    ports.append(socket.socket())
    ports[-1].bind(("127.0.0.1", 0))
    words.append("--dashboard-port=%d" % ports[-1].getsockname()[1])
for port in ports:
    port.close()
os.execvp(words[0], words)
"""

SWEEP = """
import os, sys
import ray

ray.init(logging_level="ERROR")

@ray.remote(num_cpus=1)
def place():
    return ray.get_runtime_context().get_node_id()

nodes = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
seen = ray.get([place.options(scheduling_strategy="SPREAD").remote() for _ in range(8)])
print("RESULT", len(nodes), len(set(seen) & nodes), sys.argv[1:], os.environ["ETHORAY_RUNS"])
"""


@pytest.fixture
def job(folder, tmp_path):
    """Runs the script as Slurm's batch step would, in a folder of its own; answers (rc, calls of srun, out, err)."""
    tools, calls = tmp_path / "bin", tmp_path / "calls"
    tools.mkdir()
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text("#!/bin/sh\nprintf '%s\\n' node1 node2\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "sweep.py").write_text(SWEEP)
    number = 10**6 + os.getpid()

    def run(*words: str, timeout: float = 280, **more: str):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "ETHORAY_"))}
        environment = {
            **clean,
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "CALLS": str(calls),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_ON_NODE": "1",
            "RAY_START_OPTIONS": "--node-ip-address=127.0.0.1 --object-store-memory=100000000",
            **more,
        }
        words = ("bash", str(folder / "slurm.sbatch"), *words)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)
        called = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        return done.returncode, called, done.stdout, done.stderr

    yield run
    shutil.rmtree(f"/tmp/ray-{number}", ignore_errors=True)


@pytest.mark.slow
def test_a_job_of_two_nodes_runs_the_sweep_on_both_and_ends(job, tmp_path):
    code, calls, out, said = job("sweep.py", "--gpus", "0.25")
    assert code == 0, out + said
    assert f"RESULT 2 2 ['--gpus', '0.25'] {tmp_path}/runs" in out
    steps = [words for words in calls if "ray" in words]
    assert [next(w for w in words if w.startswith("--nodelist")) for words in steps] == [
        "--nodelist=node1",
        "--nodelist=node2",
    ]
    assert all("--cpus-per-task=1" in words and "--overlap" in words for words in steps)
    assert "--dashboard-host=127.0.0.1" in steps[0]
    assert not [w for words in calls for w in words if re.search(r"[0-9a-f]{64}", w)]  # the token
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"/tmp/ray-{10**6 + os.getpid()}" not in left


def test_a_head_that_does_not_start_ends_the_job(job):
    code, calls, _, said = job("sweep.py", BROKEN="yes")
    assert code == 1 and "Ray's head did not start on node1" in said
    assert not [words for words in calls if "--nodelist=node2" in words]


def test_a_job_without_a_sweep_says_how(job):
    code, calls, _, said = job()
    assert code == 2 and calls == [] and "sbatch clusters/slurm.sbatch sweeps/NAME.py" in said


def test_it_is_started_by_sbatch_only(folder):
    environment = {"PATH": os.environ["PATH"]}
    words = ["bash", str(folder / "slurm.sbatch"), "sweep.py"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "start me with sbatch" in done.stderr


def test_what_slurm_reads_is_in_the_first_lines(folder):
    text = (folder / "slurm.sbatch").read_text()
    options = re.findall(r"^#SBATCH (\S+)$", text, re.M)
    assert {"--ntasks-per-node=1", "--exclusive", "--requeue"} <= set(options)
    assert text.rindex("#SBATCH") < text.index("set -euo pipefail")  # Slurm stops reading at the first command
    assert (folder / "slurm.sbatch").stat().st_mode & stat.S_IRUSR
