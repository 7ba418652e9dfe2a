"""Pictures of reports."""

from iopipe.report.html import write_html as write_html
