"""The report, where the package's front finds it."""

from cskd_bench.report.facade import Report, build_report

__all__ = ["Report", "build_report"]
