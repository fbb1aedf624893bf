"""clusters/node.sh with stand-ins for what it calls: nothing here leaves this machine's temporary folders."""

import os
import stat
import subprocess

import pytest

SAYS = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n'


@pytest.fixture
def node(folder, tmp_path):
    """Runs node.sh in an own home with stand-ins that write down how they were called; answers (rc, calls, err)."""
    tools, home, calls = tmp_path / "bin", tmp_path / "home", tmp_path / "calls"
    tools.mkdir()
    home.mkdir()
    for name in ("ray", "sudo", "mount.nfs4"):
        (tools / name).write_text(SAYS)
        (tools / name).chmod(0o755)
    (tools / "sudo").write_text(SAYS + '[ "$1" = tee ] && cat >> "$CALLS"\nexit 0\n')

    def run(*words: str, **more: str):
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(home), "CALLS": str(calls), **more}
        words = ("bash", str(folder / "node.sh"), *words)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, calls.read_text() if calls.exists() else "", done.stderr

    run.home, run.tools = home, tools
    return run


@pytest.mark.parametrize("verb", ["head", "worker"])
def test_nothing_starts_without_a_token(node, verb):
    code, calls, said = node(verb, RAY_HEAD_IP="10.0.0.1")
    assert code == 3 and calls == ""
    assert "ray get-auth-token --generate" in said


def test_the_head_listens_on_this_machine_only_and_hides_its_token(node):
    file = node.home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("secret")
    file.chmod(0o644)
    code, calls, _ = node("head", "--num-cpus=1")
    assert code == 0
    assert "start --head --port=6379 --dashboard-host=127.0.0.1" in calls and calls.endswith("--num-cpus=1\n")
    assert "secret" not in calls and "autoscaling" not in calls
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_head_that_ray_up_configured_scales(node):
    (node.home / "ray_bootstrap_config.yaml").touch()
    _, calls, _ = node("head", RAY_AUTH_TOKEN="x")
    assert f"--autoscaling-config={node.home}/ray_bootstrap_config.yaml" in calls


def test_a_worker_joins_the_head_it_is_told(node):
    assert "start --address=10.0.0.7:6379" in node("worker", RAY_AUTH_TOKEN="x", RAY_HEAD_IP="10.0.0.7")[1]
    assert node("worker", RAY_AUTH_TOKEN="x")[0] != 0  # nobody said where the head is


def test_the_shared_folder_is_for_private_networks(node, tmp_path):
    code, calls, said = node("serve", SHARED=str(tmp_path / "shared"))
    assert code == 0, said
    exports = [line.split()[1] for line in calls.splitlines() if line.startswith(f"{tmp_path}/shared ")]
    assert [line.partition("(")[0] for line in exports] == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
    assert all("all_squash" in line for line in exports)


def test_a_worker_mounts_the_head_s_folder(node, tmp_path):
    code, calls, _ = node("mount", SHARED=str(tmp_path / "shared"), RAY_HEAD_IP="10.0.0.7")
    assert code == 0
    assert f"mount -t nfs4 -o hard,noatime 10.0.0.7:{tmp_path}/shared {tmp_path}/shared" in calls


def test_the_installation_takes_the_lock_file_and_writes_the_shell_s_start_once(node, tmp_path):
    uv = node.home / ".uv" / "bin"
    uv.mkdir(parents=True)
    (node.tools / "python3").write_text(SAYS)
    for path in (node.tools / "python3", uv / "pip", uv / "uv"):
        path.write_text(SAYS)
        path.chmod(0o755)
    for _ in range(2):
        code, calls, said = node("install", "extra==1")
        assert code == 0, said
    assert "requirements.lock extra==1" in calls and "--no-deps --no-build-isolation -e" in calls
    assert "venv -q --python 3.11" in calls
    assert (node.home / ".bashrc").read_text().count(".ethoray") == 1
    words = "source ~/.ethoray && echo $RAY_AUTH_MODE $ETHORAY_RUNS $ETHORAY_STORE"
    shown = subprocess.run(["bash", "-c", words], env={"HOME": str(node.home)}, capture_output=True, text=True)
    assert shown.stdout.split() == ["token", "/srv/ethoray/runs", "/srv/ethoray/store"]


def test_a_wrong_verb_shows_what_there_is(node):
    code, _, said = node("serf")
    assert code == 2 and "node.sh install" in said
