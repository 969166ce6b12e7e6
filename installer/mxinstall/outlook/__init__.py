"""What an install would do, for a person who has to say yes: object by object, pod by pod, byte by byte.

Computed from a plan and what the cluster answers to dry runs. Reads only. Not here: rendering (`mxinstall.plan`).
"""

from mxinstall.outlook.foretelling import foretell
from mxinstall.outlook.model import FieldChange, ObjectChange, Outlook, Restart
from mxinstall.outlook.text import details, summary

__all__ = ["FieldChange", "ObjectChange", "Outlook", "Restart", "details", "foretell", "summary"]
