"""Every stage in order: an audit, and the mitigation that may follow it."""

from ravl_med.pipeline.auditing import audit
from ravl_med.pipeline.mitigating import Mitigation, mitigate
from ravl_med.pipeline.mitigation_folder import write_mitigation
from ravl_med.pipeline.stages import Progress
from ravl_med.pipeline.work_folder import WorkFolder, open_work_folder
from ravl_med.reporting.files.audit_run import Audit, write_run

__all__ = [
    "Audit",
    "Mitigation",
    "Progress",
    "WorkFolder",
    "audit",
    "mitigate",
    "open_work_folder",
    "write_mitigation",
    "write_run",
]
