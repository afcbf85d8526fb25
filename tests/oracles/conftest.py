"""What keeps numbers of torch's libraries is left out without torch."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["freeze_curvature.py"]
