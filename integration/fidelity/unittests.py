# Runs modules of unittest tests: unittests.py RESULTS ONLY MODULE...
#
# ONLY is a file with the names of the tests to run, one a line; "-" runs none and prints all names, as
# "TEST name". RESULTS gets one JSON object a line: a test has the result DIED from its beginning to its end.
import faulthandler
import fcntl
import json
import os
import sys
import time
import unittest

LIMIT = 30  # seconds that a test may take

try:
    # No external hosts, nothing that takes minutes. (Without this, all of CPython's resources are enabled.)
    from test import support
    support.use_resources = ["network"]
except ImportError:
    pass


def tests(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from tests(t)
        elif hasattr(t, "id"):
            yield t


class Result(unittest.TestResult):
    def __init__(self, path, chosen):
        super().__init__()
        self.chosen = chosen
        self.last = None
        # High up: tests compare descriptor numbers, and the lowest ones are theirs.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 800)
        os.close(fd)
        self.pid = os.getpid()

    def say(self, test, result, output=""):
        if os.getpid() != self.pid:  # a child that came back from a fork
            return
        names = [test.id()]
        if not isinstance(test, unittest.TestCase):
            # "setUpClass (module.Class)" and the like: what became of it is what became of each of its tests.
            whole = names[0].partition("(")[2].rstrip(")") + "."
            names = [name for name in self.chosen if name.startswith(whole)]
        for name in names:
            line = {"test": name, "result": result, "output": output, "clock": round(time.monotonic(), 3)}
            os.write(self.fd, (json.dumps(line) + "\n").encode())

    def startTest(self, test):
        super().startTest(test)
        self.last = None
        self.say(test, "DIED")
        faulthandler.dump_traceback_later(LIMIT, exit=True)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        if self.last != "FAIL":
            self.say(test, self.last or "pass")
        super().stopTest(test)

    def end(self, test, result, output=""):
        self.last = result
        self.say(test, result, output)

    def addSuccess(self, test):
        if self.last is None:
            self.end(test, "pass")

    def addError(self, test, err):
        self.end(test, "FAIL", self._exc_info_to_string(err, test))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.end(test, "FAIL", "%s: %s" % (subtest, self._exc_info_to_string(err, test)))

    def addSkip(self, test, reason):
        if self.last is None or not isinstance(test, unittest.TestCase):
            self.end(test, "skip", str(reason))

    def addExpectedFailure(self, test, err):
        self.end(test, "pass")

    def addUnexpectedSuccess(self, test):
        self.end(test, "FAIL", "unexpected success")


def main():
    results, only, modules = sys.argv[1], sys.argv[2], sys.argv[3:]
    loader = unittest.TestLoader()
    suites = [loader.loadTestsFromName(m) for m in modules]
    if only == "-":
        for s in suites:
            for t in tests(s):
                print("TEST " + t.id())
        return
    with open(only) as f:
        chosen = f.read().split("\n")
    wanted = set(chosen)
    # One suite of all that is chosen, in order: setUpModule and setUpClass are where they were.
    unittest.TestSuite(t for s in suites for t in tests(s) if t.id() in wanted).run(Result(results, chosen))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Threads and event loops that tests have left behind shall not keep the results waiting.
    os._exit(0)
