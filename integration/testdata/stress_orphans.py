# usage: stress_orphans.py TIMES COMMAND...
#
# Runs the command so many times, as a process 1 would that reaps nobody but its own children, and prints
# how often the command left a child of its own behind, dead or alive.
import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36

ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
left = 0
for _ in range(int(sys.argv[1])):
    subprocess.run(sys.argv[2:], check=True)
    try:
        os.waitpid(-1, 0)
        left += 1
    except ChildProcessError:
        pass
print(left)
