"""How gunicorn runs the service: read by `gunicorn -c gunicorn.conf.py wsgi:app`."""

import json
import subprocess
import sys
from pathlib import Path

start = subprocess.run([sys.executable, "-m", "app.start"], cwd=Path(__file__).parent, stdout=subprocess.PIPE)
if start.returncode:
    sys.exit(start.returncode)  # it has said why, in one line

# bind, workers, threads, forwarded_allow_ips
globals().update(json.loads(start.stdout))

# A sync worker answers nobody else while an idle keep-alive connection is open.
worker_class = "gthread"
# A session cookie in three chunks is longer than the default of 8190 bytes.
limit_request_field_size = 65536
# No socket for gunicorn's own control program beside the service.
control_socket_disable = True
