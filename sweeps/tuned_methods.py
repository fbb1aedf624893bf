"""Which method tells behaviours apart best when all were tuned alike?

Every method gets as many trials for its learning rate (TPE, the poorest stopped early by ASHA), on recordings that
are not judged later, in the dataset "<dataset>_tuning". The best of each is trained anew with several seeds.

    python datasets/simulated_mice.py --out simulated_mice_tuning --seed 1 --recordings 120
    python sweeps/tuned_methods.py
    ray job submit -- python sweeps/tuned_methods.py
"""

from dataclasses import replace
from functools import partial

import optuna

from ethoray import methods, metrics
from ethoray.experiment import Experiment
from ethoray.figures import whole
from ethoray.learning import Method
from ethoray.sweep import Flags, Sweep, parse, usual

TRIALS = 8
METRIC = {"metric": "*/all", "direction": "maximize"}
RATES: dict[str, float] = {}


def with_rate(name: str, rate: float | None) -> Method:
    """A method in its small preset, with this learning rate where it has one."""
    kind = methods.load(name)
    return kind(**{**kind.presets.get("small", {}), **({} if rate is None else {"lr": rate})})


def rated(name: str, trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method with a learning rate that is being tried."""
    return usual(with_rate(name, trial.suggest_float("lr", 3e-4, 1e-2, log=True)), trial, flags)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method with the learning rate that was best for it."""
    name = trial.suggest_categorical("method", list(methods.names("keypoints")))
    return usual(with_rate(name, RATES.get(name)), trial, flags)


def tune(flags: Flags) -> None:
    """Find the learning rate of every method that has one."""
    search = replace(flags, dataset=f"{flags.dataset}_tuning", trials=TRIALS, seeds=flags.seeds[:1], sampler="tpe")
    for name in (n for n in methods.names("keypoints") if hasattr(methods.load(n), "lr")):
        sweep = Sweep(f"tune_{name}", partial(rated, name), **METRIC)
        scores = whole(sweep.run(replace(search, prune="asha"), question=__doc__))
        alike = scores[~scores["metric"].isin(metrics.LOWER_IS_BETTER)]  # what the search maximised
        RATES[name] = float(alike.groupby("method.lr")["value"].mean().idxmax())


sweep = Sweep("tuned_methods", candidate, **METRIC, smoke_trials=len(methods.names("keypoints")))

if __name__ == "__main__":
    if not (flags := parse(sweep.flags(), None, __doc__)).dry_run:
        tune(flags)
    sweep.main()
