"""Compare recorded outputs of the authors' implementation with this one's.

``python -m malmm.model.conformance PATH...`` reads safetensors files, and all of a folder, and prints the largest
absolute error of each case. There are three kinds of files, recognised by their tensors:

* compression: ``case{i}.bank`` [B, T, N, C], ``case{i}.size`` [B, T, N] in, ``case{i}.out_bank``
  [B, T-1, N, C] and ``case{i}.out_size`` [B, T-1, N] out, one step;
* an online pass: ``weights.*`` of a Q-Former, ``query_tokens`` [1, Q, D], ``frames`` [B, T, N, C],
  ``input_ids`` and ``attention_mask`` [B, L] in; ``hidden_states`` [B, T, Q+L, D],
  ``hidden_states_visual_bank_only`` and the bank after the last frame out; sizes in the file's metadata;
* the whole model: ``weights.*`` of all trained parts and the language model, ``raw_tokens`` [B, T, N, C] and texts as
  token ids in; the training ``loss`` [1], its gradients ``grad.*`` and generated token ids ``generated.*`` out.
"""

from malmm.model.conformance.cases import TOLERANCE, CaseError
from malmm.model.conformance.replaying import check_directory, check_file, main

__all__ = ["TOLERANCE", "CaseError", "check_directory", "check_file", "main"]
