"""What all tests share: Hypothesis profiles, and that Ctrl-C is heard."""

import os
import signal

from hypothesis import HealthCheck, settings

# timed judgements are for benchmarks; a busy machine must not fail a test
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# a shell starts what runs behind `&` with it ignored, and so all programs that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
