"""pytest plugin: writes one JSON line a finished test to the file named by LB_REPORT.

A test has one outcome, the worst of its phases and subtests.
"""

import json
import os

RANK = {"passed": 0, "skipped": 1, "failed": 2}
tests = {}


def pytest_runtest_logreport(report):
    test = tests.setdefault(report.nodeid, {"outcome": "", "reason": "", "seconds": 0.0})
    test["seconds"] += report.duration
    if report.when != "call" and report.outcome == "passed":
        return
    if test["outcome"] == "" or RANK[report.outcome] > RANK[test["outcome"]]:
        test["outcome"] = report.outcome
        test["reason"] = reason(report)


def reason(report):
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr or "")[:600]


def pytest_runtest_logfinish(nodeid, location):
    write(nodeid)


def write(nodeid):
    test = tests.pop(nodeid, None)
    if test is not None:
        with open(os.environ["LB_REPORT"], "a", encoding="utf-8") as out:
            out.write(json.dumps(dict(test, id=nodeid)) + "\n")


def pytest_collectreport(report):
    if report.failed:
        tests[report.nodeid] = {"outcome": "failed", "reason": str(report.longrepr)[:600], "seconds": 0.0}
        write(report.nodeid)
