"""The demo from its first act to its last, with a real service and a real worker."""

import json
import subprocess
import sys

from registry.home import Home


def test_the_demo_tells_the_whole_loop(backbone_home: Home) -> None:
    command = [sys.executable, "-m", "cli", "demo", "--json", "--data-dir", str(backbone_home.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads(done.stdout)
    assert facts["accuracy_after"] > facts["accuracy_before"]
    assert facts["verdict"] == "pass"
    assert not facts["alarm_on_normal_traffic"]
    assert 0 < facts["requests_until_alarm"] <= 120
    assert facts["moved"]
    assert facts["second_verdict"] in ("pass", "fail", "inconclusive")
