"""check-storage.py REPORT INSPECT: the report's bytes are those of the artifact's weight segments."""
import json
import sys

report, artifact = (json.load(open(path)) for path in sys.argv[1:])
weights = [s for s in artifact["segments"] if s["kind"] == "weight"]
storage = report["storage"]
assert storage["segments"] == len(weights)
assert storage["stored_bytes"] == sum(s["bytes"] for s in weights)
assert storage["stored_bytes"] < storage["sum_over_plans_bytes"]
used = {plan["name"]: {s["name"]: s["bytes"] for s in weights if plan["name"] in s["plans"]}
        for plan in storage["plans"]}
for plan in storage["plans"]:
    assert plan["weight_bytes"] == sum(used[plan["name"]].values()), plan
for plan in report["plans"]:  # the planner counts what is stored
    assert plan["host_memory"]["weight_bytes"] == sum(used[plan["name"]].values()), plan
for switch in storage["switches"]:
    moved = sum(size for name, size in used[switch["to"]].items()
                if name not in used[switch["from"]])
    assert switch["bytes"] == moved, switch
