"""What Python does first in every process that a test starts: be slow to look for garbage.

A process that loads torch or Ray makes hundreds of thousands of objects that stay, and looks through them again and
again, which takes a fifth of its start.
"""

import gc

__all__: list[str] = []

gc.set_threshold(50_000, 20, 20)
