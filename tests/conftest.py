"""What holds for every test.

Property tests draw the same examples in every run of the suite: a run that fails where the one before did not says something
about what was changed in between. New ones are looked for with ``pytest --hypothesis-profile=default``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says more about the machine than about the program.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
