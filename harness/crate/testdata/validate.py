"""Validates a crate by rocrate-validator and prints what it finds as JSON: for each
severity a list of messages. The network is not asked: the context of RO-Crate 1.1 is
that which the package rocrate holds, and anything else cannot be reached.

    python3 validate.py CRATE
"""

import email.message
import importlib.metadata
import io
import json
import sys
import urllib.error
import urllib.request
import urllib.response

import requests

URL = "https://w3id.org/ro/crate/1.1/context"
CONTEXT = importlib.metadata.distribution("rocrate").locate_file("rocrate/data/ro-crate.jsonld").read_bytes()
assert json.loads(CONTEXT)["@id"] == URL


class Handler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        if request.full_url != URL:
            raise urllib.error.URLError("not asked: " + request.full_url)
        headers = email.message.Message()
        headers["Content-Type"] = "application/ld+json"
        return urllib.response.addinfourl(io.BytesIO(CONTEXT), headers, URL, 200)


class Adapter(requests.adapters.BaseAdapter):
    def send(self, request, **kwargs):
        if request.url != URL:
            raise requests.ConnectionError("not asked: " + request.url)
        response = requests.Response()
        response.status_code, response.url, response.request = 200, URL, request
        response.headers["Content-Type"] = "application/ld+json"
        response.raw = io.BytesIO(CONTEXT)
        response._content = CONTEXT
        return response

    def close(self):
        pass


urllib.request.install_opener(urllib.request.build_opener(Handler))
requests.Session.get_adapter = lambda self, url: Adapter()

from rocrate_validator import models, services  # noqa: E402

settings = services.ValidationSettings(
    rocrate_uri=sys.argv[1],
    profile_identifier="workflow-run-crate-0.5",
    requirement_severity=models.Severity.RECOMMENDED,
    no_cache=True,
)
result = services.validate(settings)
found = {s.name: [] for s in models.Severity}
for issue in result.get_issues():
    found[issue.severity.name].append(f"{issue.message} ({issue.violatingEntity})")
# How much was checked, so that nothing is not taken for nothing wrong.
found["checks"] = result.statistics.to_dict()["checks"]["by_severity"]
json.dump(found, sys.stdout)
