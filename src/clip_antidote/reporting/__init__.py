"""Renders results: report.html, charts, pictures and the model card; computes nothing."""

from clip_antidote.purification.hub_card import CAVEAT
from clip_antidote.reporting.card import render_card
from clip_antidote.reporting.html import Picture, Sample, render_html
from clip_antidote.reporting.images import amplified_difference, to_png
from clip_antidote.reporting.plots import plot_class_changes, plot_scores
from clip_antidote.reporting.report import ClassChange, ModelFacts, PlantedAttack, Report

__all__ = [
    "CAVEAT",
    "ClassChange",
    "ModelFacts",
    "Picture",
    "PlantedAttack",
    "Report",
    "Sample",
    "amplified_difference",
    "plot_class_changes",
    "plot_scores",
    "render_card",
    "render_html",
    "to_png",
]
