"""Pictures of reports."""

from iopipe.report.comparison import write_comparison as write_comparison
from iopipe.report.html import write_html as write_html
from iopipe.report.trace import write_trace as write_trace
