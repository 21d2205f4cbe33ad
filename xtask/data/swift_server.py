"""Starts a server of OpenStack Swift whose swift.conf is elsewhere than in /etc/swift.

usage: swift_server.py DIR MODULE ARGUMENT...
"""

import importlib
import sys

from swift.common import constraints, storage_policy, utils

utils.set_swift_dir(sys.argv[1])
constraints.reload_constraints()
storage_policy.reload_storage_policies()
main = importlib.import_module(sys.argv[2]).main
del sys.argv[1:3]
main()
