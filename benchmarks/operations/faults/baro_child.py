"""BARO over one case, in an environment of its own that has ``RCAEval``: columns in, ranked columns out, as JSON."""

import importlib.util
import json
import sys

import pandas

# Its package imports every method that it has, torch among their requirements; the module of BARO needs none of them.
_found = importlib.util.find_spec("RCAEval")
assert _found is not None
assert _found.submodule_search_locations
_spec = importlib.util.spec_from_file_location("baro", f"{_found.submodule_search_locations[0]}/e2e/baro.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

case = json.load(sys.stdin)
found = _module.baro(pandas.DataFrame(case["columns"]), case["inject_time"], dataset=None)
json.dump([str(name) for name in found["ranks"]], sys.stdout)
