"""Log lines as refocus reads them: hclog's JSON, one object a line, on stderr."""

import datetime
import json
import logging
import os
import sys

LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn", logging.ERROR: "error", logging.CRITICAL: "error"}


class Lines(logging.Formatter):
    def format(self, record):
        at = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {
            "@level": NAMES.get(record.levelno, "info"),
            "@message": record.getMessage(),
            "@module": record.name,
            "@timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            **getattr(record, "pairs", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure():
    """The level comes from refocus; Python's warnings become lines, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    level = LEVELS.get(os.environ.get("REFOCUS_PLUGIN_LOG", "info"), logging.INFO)
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
