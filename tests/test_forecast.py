"""A forecast and what came are shares over the same bins of the same frames."""

import numpy as np
import torch

from ethoray import store
from ethoray.batch import Spec, collate
from ethoray.forecast import Forecasts, histograms
from ethoray.methods.bams import BAMS
from ethoray.methods.raw import Raw


def encoder(toy: store.Dataset, **changes):
    entry = toy.entries[0]
    spec = Spec(toy.card.skeleton, len(entry.individuals), entry.space, entry.fps, frames=400)
    torch.manual_seed(0)
    return BAMS(**{**BAMS.presets["small"], "horizon": 0.5, **changes}).build(spec).eval(), toy.keypoints(entry)[:300]


def test_the_true_histogram_is_counted_by_hand(toy):
    bams, window = encoder(toy)
    bams.edges.copy_(torch.linspace(-2, 2, bams.edges.shape[1]).expand_as(bams.edges))
    told, true = histograms(bams, window, toy.card.fps, [100, 200], individual=1)
    assert told.shape == true.shape == (2, len(bams.features.quantities), bams.edges.shape[1] + 1)
    assert np.allclose(told.sum(-1), 1, atol=1e-5) and np.allclose(true.sum(-1), 1)
    values = bams.features(collate([window], len(window), window.shape[1], toy.card.fps)).targets[1]
    ahead = values[101 : 101 + bams.horizon, 0].numpy()
    ahead = ahead[np.isfinite(ahead)]  # what was not tracked is in no bin
    assert 5 < len(ahead) < bams.horizon
    counts = np.bincount(np.searchsorted(bams.edges[0].numpy(), ahead, side="right"), minlength=true.shape[-1])
    assert np.allclose(true[0, 0], counts / len(ahead))


def test_a_head_that_forecasts_no_histogram_has_none(toy):
    bams, window = encoder(toy, objective="sequential")
    assert histograms(bams, window, toy.card.fps, [100]) is None


def test_an_encoder_without_a_head_does_not_forecast(toy):
    bams, _ = encoder(toy)
    assert isinstance(bams, Forecasts) and not isinstance(Raw().build(bams.spec), Forecasts)
