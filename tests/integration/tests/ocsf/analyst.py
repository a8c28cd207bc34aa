"""An analyst's question: all destinations of an agent in the last day, with owner and rule.

The question is a Sigma rule. pySigma takes it to OCSF's names and to SQL; SQLite answers it over the events.
"""
import json
import re
import sqlite3
import sys

from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.pipelines.ocsf import ocsf_pipeline

EVENTS, AGENT = sys.argv[1:]
RULE = """
title: Destinations of an agent
status: stable
logsource:
    category: network_connection
detection:
    agent:
        actor.app_name: %s
    somewhere:
        DestinationIp|re: '.+'
    condition: agent and somewhere
""" % json.dumps(AGENT)


def flat(value, name=""):
    """Fields by their paths, as a database of such events has them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, json.dumps(value)
    else:
        yield name, value


with open(EVENTS) as lines:
    events = [dict(flat(json.loads(line))) for line in lines]
columns = sorted({name for event in events for name in event})
database = sqlite3.connect(":memory:")
database.create_function("regexp", 2, lambda pattern, text: text is not None and bool(re.search(pattern, str(text))))
quoted = ", ".join(f"`{name}`" for name in columns)
database.execute(f"CREATE TABLE logs ({quoted})")
marks = ", ".join("?" for _ in columns)
for event in events:
    database.execute(f"INSERT INTO logs VALUES ({marks})", [event.get(name) for name in columns])

(query,) = sqliteBackend(ocsf_pipeline()).convert(SigmaCollection.from_yaml(RULE))
now = max(event["time"] for event in events)
rows = database.execute(
    "SELECT DISTINCT `dst_endpoint.ip`, `dst_endpoint.port`, `actor.user.name`, `firewall_rule.name`"
    f" FROM ({query}) WHERE time > ?",
    [now - 24 * 3600 * 1000],
)
for row in rows:
    print(json.dumps([str(field) for field in row]))
