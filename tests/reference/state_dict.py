"""Makes state_dict.bin as real PyTorch writes it, with the values that the tests expect.

python tests/reference/state_dict.py        # needs torch
"""

from pathlib import Path

import torch

base = torch.arange(12, dtype=torch.float32)
torch.save(
    {
        "matrix": base.reshape(3, 4),
        "part": base[4:10].reshape(2, 3),  # of the same storage
        "parameter": torch.nn.Parameter(torch.tensor([0.5, -2.0])),
        "bfloat": torch.tensor([[1.5], [-0.25]], dtype=torch.bfloat16),
        "half": torch.tensor([1.5], dtype=torch.float16),
        "flags": torch.tensor([True, False]),
    },
    Path(__file__).with_suffix(".bin"),
)
