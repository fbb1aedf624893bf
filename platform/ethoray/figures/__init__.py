"""Figures for pages: drawn without a screen, in colours that colour-blind readers tell apart, as SVG and PNG.

Every function takes arrays or data frames and a path without a suffix, writes two files and returns them. The same
arrays give the same bytes.
"""

from ethoray.figures.behaviour import bouts, confusions, ethogram
from ethoray.figures.inside import codebook, forecast, poses, rank_frequency, rebuilt
from ethoray.figures.scores import label_budget, pareto, score_against, score_by, whole
from ethoray.figures.spaces import Colouring, plane, scatter, strips
from ethoray.figures.style import OKABE_ITO, FigureError
from ethoray.figures.training import explained, importances, learning_curves, parallel
from ethoray.figures.usage import codebook_usage
from ethoray.reconstruction import draw as reconstruction

__all__ = [
    "OKABE_ITO", "Colouring", "FigureError", "bouts", "codebook", "codebook_usage", "confusions", "ethogram",
    "explained", "forecast", "importances", "label_budget", "learning_curves", "parallel", "pareto", "plane", "poses",
    "rank_frequency", "rebuilt", "reconstruction", "scatter", "score_against", "score_by", "strips", "whole",
]  # fmt: skip
