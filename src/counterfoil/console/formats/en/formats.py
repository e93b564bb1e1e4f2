"""One form for every instant: with seconds and zone, so that it can be compared with the logs."""

from typing import Final

DATETIME_FORMAT: Final = "Y-m-d H:i:s T"
