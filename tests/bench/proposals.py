"""What the driver of a sweep does for a trial, as the journal grows: propose it, take its score.

python tests/bench/proposals.py --trials 1000

CPU-milliseconds a trial among the first hundred and among the last, without training. A driver that needs 20 ms keeps a
thousand GPUs busy with trials of 20 s.
"""

import argparse
import json
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import optuna

from ethoray import testing
from ethoray.experiment import Experiment
from ethoray.methods.bams import BAMS
from ethoray.sweep import Flags, usual
from ethoray.sweep.journal import open_journal
from ethoray.sweep.proposals import Proposals, settle
from ethoray.sweep.question import Question
from ethoray.sweep.samplers import sampler


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BAMS with three numbers to find."""
    alpha, rate = trial.suggest_float("alpha", 0, 8), trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    return usual(BAMS(alpha=alpha, lr=rate, dropout=trial.suggest_float("dropout", 0, 0.5)), trial, flags)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--trials", type=int, default=1000)
    total = words.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        toy = testing.toy_dataset(Path(place) / "toy")
        for kind in ("random", "tpe"):
            flags = Flags(dataset=toy.uri, storage=f"{place}/{kind}", sampler=kind, seeds=(0,))
            question = Question(candidate, flags, toy, "running/long")
            storage = open_journal(Path(flags.storage) / "s" / "optuna.journal")
            study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
            asked = Proposals(
                question, study, storage, total, settle(study, question, [], total), lambda config, values: None,
                partial(sampler, kind),
            )  # fmt: skip
            spent = []
            for number in range(total):
                started = time.process_time()
                config = asked.suggest(str(number))
                spent.append(time.process_time() - started)
                assert isinstance(config, dict)
                folder = question.folder(config["key"])
                folder.mkdir(parents=True)
                value = -((config["alpha"] - 1) ** 2)
                (folder / "scores.json").write_text(json.dumps({"scores": {"running/long": value}}))
                started = time.process_time()
                asked.on_trial_complete(str(number), {"value": value})
                spent[-1] += time.process_time() - started
            few = min(100, total)
            first, last = (1000 * sum(part) / few for part in (spent[:few], spent[-few:]))
            print(
                f"{kind:7s} {first:6.1f} ms a trial among the first {few}, {last:6.1f} among the last of {total}",
                flush=True,
            )


if __name__ == "__main__":
    main()
