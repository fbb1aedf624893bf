"""What MLflow is told of a run: names it takes, parameters, tags, the data, and notes for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import DatasetInput, Metric

NOTE, KIND = "mlflow.note.content", "mlflow.experimentKind"
KEY, PARENT, DONE = "ethoray.key", "mlflow.parentRunId", "ethoray.mirrored"
MEMO = "page.json"
"""What the page of a sweep was made of, beside it."""

_MOST = 5000  # characters of a tag


def slug(name: str) -> str:
    """A name that MLflow takes for metrics, parameters and paths; nothing in it can climb out of a folder."""
    safe = re.sub(r"[^\w\-. /]", "_", name)
    parts = [part.strip(" .") or "_" for part in safe.split("/") if part]
    return "/".join(parts)[:250] or "_"


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested JSON as dotted names and text, cut at MLflow's 250 and 6000 characters."""
    flat: dict[str, str] = {}
    for name, value in document.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{dotted}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            flat |= flatten({str(i): item for i, item in enumerate(value)}, f"{dotted}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[slug(dotted)] = text[:6000]
    return flat


def tags(origin: Mapping[str, Any]) -> dict[str, str]:
    """Where a run comes from, as tags."""
    chosen = {
        f"ethoray.{name}": json.dumps(origin.get(name))[:_MOST] for name in ("dirty", "dataset", "host", "packages")
    }
    return chosen | ({"mlflow.source.git.commit": origin["commit"]} if origin.get("commit") else {})


def scores(document: Mapping[str, Any], when: int) -> list[Metric]:
    """The scores of a finished run, the ends of their intervals and the costs, as metrics without steps."""
    from mlflow.entities import Metric

    values = {f"score/{name}": value for name, value in document["scores"].items()}
    for name, (low, high) in document.get("intervals", {}).items():
        values |= {f"score/{name} low": low, f"score/{name} high": high}
    values |= {f"cost/{name}": value for name, value in document.get("cost", {}).items()}
    return [Metric(slug(name), float(value), when, 0) for name, value in values.items() if value is not None]


def leader(table: pd.DataFrame, when: int) -> list[Metric]:
    """The scores and intervals of a leaderboard's first row, as metrics of the parent run."""
    from mlflow.entities import Metric

    names = [name for name in table.columns if f"{name} low" in table and f"{name} high" in table]
    wanted = [f"{name}{end}" for name in names for end in ("", " low", " high")] if len(table) else []
    return [
        Metric(slug(f"first/{name}"), float(table[name].iloc[0]), when, 0)
        for name in wanted
        if table[name].iloc[0] == table[name].iloc[0]
    ]


def data(origin: Mapping[str, Any]) -> list[DatasetInput]:
    """The prepared dataset of a run, its digest the beginning of the dataset's key; none when it is not told."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known = origin.get("dataset") or {}
    if not {"name", "key", "uri"} <= set(known):
        return []
    kind = "local" if "://" not in known["uri"] else known["uri"].partition("://")[0]
    source = json.dumps({"uri": known["uri"]})
    profile = json.dumps({"key": known["key"]})
    dataset = Dataset(known["name"][:500], known["key"][:36], kind, source, profile=profile)
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", "train and test")])]


_NOTE = 5000  # characters that every MLflow server takes in a tag


def columned(table: pd.DataFrame) -> pd.DataFrame:
    """A table as MLflow shows it: in a column with a dot it looks for nested values and shows none."""
    return table.rename(columns=lambda name: str(name).replace(".", " "))


def verdict(table: pd.DataFrame) -> str:
    """What a leaderboard says, in a sentence."""
    if not len(table) or "method" not in table:
        return ""
    first = table.iloc[0]
    where = f" (mean place {first['rank']:.2g})" if "rank" in table and first["rank"] == first["rank"] else ""
    among = f"Of {len(table)} candidates, {first['method']} is" if len(table) > 1 else f"{first['method']} is alone;"
    return f"{among} first{where}." if len(table) > 1 else f"{among} there is nothing to compare it with."


def note(tags: Mapping[str, str], verdict: str, files: Sequence[Path], charts: str, rows: Sequence[str] = ()) -> str:
    """What stands above a parent run: the question, the answer, where to look and how it was made."""
    pages = ", ".join(f"`{path.name}`" for path in files if path.parent == files[0].parent)
    made = tags.get("ethoray.command")
    lines = [
        plain(tags.get("ethoray.question", "")),
        f"**{plain(verdict)}**" if verdict else "",
        "Artifacts: `leaderboard.json` is the table" + (f"; {pages}" if pages else "") + ".",
        f"The child runs are the trials: [compare them in charts]({charts}).",
        f"Made by `{made}`" if made else "",
        *_fitting(rows, _NOTE - 1000),
    ]
    return "\n\n".join(line for line in lines if line)


def links(experiment: str, rows: Mapping[str, Sequence[str]], runs: Mapping[str, str]) -> list[str]:
    """A line a row of the table with links to its runs; ``runs`` are ids by the keys that rows name."""
    lines = []
    for row, keys in rows.items():
        there = [f"[{key[:8]}](#/experiments/{experiment}/runs/{runs[key]})" for key in keys if key in runs]
        if there:
            lines.append(f"{plain(row)}: {', '.join(there)}")
    return lines


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    """As many lines as there is room for in a tag."""
    kept: list[str] = []
    for line in lines:
        if (room := room - len(line) - 2) < 0:
            return [*kept, f"and {len(lines) - len(kept)} more rows"]
        kept.append(line)
    return kept


def charts(experiment: str, runs: Sequence[str]) -> str:
    """Where MLflow's page compares these runs in charts (a hundred of them: the address is a line)."""
    chosen = quote(json.dumps([*runs][:100])), quote(json.dumps([experiment]))
    return "#/compare-runs?runs={}&experiments={}&workflowType=machine_learning".format(*chosen)


def plain(text: str) -> str:
    """Text whose tags Markdown shows instead of making them part of the page."""
    return text.replace("<", "&lt;")


def usage(model: str) -> str:
    """What stands above a run that has a model, and above a registered model."""
    return (
        "This encoder embeds new recordings, from a long table (frame, individual, keypoint, x, y) or files (path):\n\n"
        f"    model = mlflow.pyfunc.load_model('models:/{model}')\n"
        "    model.predict(table)"
    )


def read(path: Path) -> dict[str, Any]:
    """A JSON file, empty when it is not there."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def brief(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def steps(folder: Path, after: int, start: int, most: int) -> Iterator[list[Metric]]:
    """The metrics of every step of a run past ``after``, in lists of whole steps; times in ms from ``start``."""
    from mlflow.entities import Metric

    from ethoray.record import read_metrics

    batch: list[Metric] = []
    for line in read_metrics(folder):
        if line["step"] <= after:  # a resumed run repeats steps: they are here already
            continue
        values = [(slug(k), float(v)) for k, v in line.items() if k != "step"]
        if batch and len(batch) + len(values) > most:
            yield batch
            batch = []
        when = start + int(1000 * line["seconds"])
        batch += [Metric(name, value, when, int(line["step"])) for name, value in values]
    if batch:
        yield batch
