from __future__ import annotations

import torch

# As Ray's workers do, which share this machine.
torch.set_num_threads(1)
