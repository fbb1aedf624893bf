"""No password, token or key stands in a file that configures a machine, and the command that makes one works."""

import math
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ASSIGNED = re.compile(
    r"""(?ix) (?!secretKeyRef)
    \b[\w-]*(?:password|passwd|secret|token|access_key|api_key|private_key|credential)[\w-]* ["']? [ \t]* [:=] [ \t]*
    (?P<value> "[^"\n]*" | '[^'\n]*' | \$\([^)\n]*\) | \$\{[^}\n]*\} | [^\s,;}\])]+ )"""
)
HARMLESS = re.compile(
    r"""(?x) ^["']? (?: $ | \$[\w{(] | <  # nothing, from the environment, a place to fill in
    | token$ | required$ | enabled$ | true$ | false$ | null$ | string$  # modes and settings
    | ~?/[\w./~]*$ | ethoray$ )  # where the secret is, or what the user's Kubernetes Secret is called
    """
)
KNOWN = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|ghp_\w{36}|hf_\w{30}|xox[bp]-|eyJ[\w-]{20,}\.")
DEFAULTS = re.compile(r"\b(minioadmin|changeme|password123|letmein|postgres:postgres|admin:admin|root:root)\b", re.I)


def found_in(text: str) -> list[str]:
    """What looks like a secret with its value written beside it."""
    plain = re.sub(r"\$\{[^}]*\}", "${}", text)  # their defaults have a test of their own
    assigned = [m.group() for m in ASSIGNED.finditer(plain) if not HARMLESS.match(m["value"])]
    random = [w for w in re.findall(r"\b[A-Za-z0-9+/_-]{24,}\b", text) if looks_random(w)]
    return assigned + KNOWN.findall(text) + DEFAULTS.findall(text) + random


def looks_random(word: str) -> bool:
    """Whether a word of letters and digits has the entropy of a key (bits a character)."""
    counts = Counter(word)
    bits = -sum(n / len(word) * math.log2(n / len(word)) for n in counts.values())
    return (
        bits > 3.9 and bool(re.search(r"\d.*\d.*\d", word)) and bool(re.search(r"[a-zA-Z]", word)) and "/" not in word
    )


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def test_no_file_of_clusters_holds_a_secret(folder):
    found = {str(path.relative_to(folder)): found_in(path.read_text()) for path in files(folder)}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRES_PASSWORD: hunter2",
        "password = 'x'",
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYzEXAMPLEKEY",
        "token: ${TOKEN}\nS3_PASSWORD: minio",
        'value: "4f9b1c2e8a7d6f5e4c3b2a1908f7e6d5"',
        "-----BEGIN RSA PRIVATE KEY-----",
        "uri: postgres:postgres@db",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert found_in(text)


@pytest.mark.parametrize(
    "text", ["RAY_AUTH_MODE=token", "P: ${P:?x}", "PASSWORD: ${P:?choose}", "TOKEN=$(openssl rand)"]
)
def test_the_search_leaves_alone_what_names_no_value(text):
    assert not found_in(text)


def test_no_file_of_the_tree_holds_a_key_or_a_well_known_password(folder):
    listed = subprocess.run(["git", "ls-files"], cwd=folder.parent, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in set(listed.stdout.splitlines()) - {str(Path(__file__).relative_to(folder.parent))}:
        path = folder.parent / name
        if path.is_file() and path.stat().st_size < 1e6:
            text = path.read_text(errors="replace")
            assert not KNOWN.findall(text) + DEFAULTS.findall(text), name


def test_defaults_are_not_hidden_in_shell_expansions(folder):
    for path in files(folder):
        for name, default in re.findall(
            r"\$\{(\w*(?:PASSWORD|TOKEN|SECRET|S3_USER)\w*):?[-=]([^}]*)\}", path.read_text()
        ):
            assert default == "" or default.endswith("/auth_token"), f"{path}: {name}"


def test_openssl_makes_a_token_as_the_files_say():
    token = subprocess.run(["openssl", "rand", "-hex", "32"], capture_output=True, text=True).stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", token)
