"""Renders results: report.html, charts, pictures and the model card; computes nothing."""

from clip_antidote.purification.hub_card import CAVEAT
from clip_antidote.reporting.card import render_card
from clip_antidote.reporting.cyclonedx import scan_cyclonedx
from clip_antidote.reporting.html import Picture, Sample, render_html
from clip_antidote.reporting.images import amplified_difference, to_png
from clip_antidote.reporting.plots import plot_class_changes, plot_scores
from clip_antidote.reporting.report import ClassChange, ModelFacts, PlantedAttack, Report
from clip_antidote.reporting.scan_html import render_scan
from clip_antidote.reporting.scan_report import ScannedModel, ScanReport, ScanTrigger
from clip_antidote.reporting.scan_sarif import scan_sarif

__all__ = [
    "CAVEAT",
    "ClassChange",
    "ModelFacts",
    "Picture",
    "PlantedAttack",
    "Report",
    "Sample",
    "ScanReport",
    "ScanTrigger",
    "ScannedModel",
    "amplified_difference",
    "plot_class_changes",
    "plot_scores",
    "render_card",
    "render_html",
    "render_scan",
    "scan_cyclonedx",
    "scan_sarif",
    "to_png",
]
