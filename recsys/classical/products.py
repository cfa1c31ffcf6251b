"""Products of sparse matrices with a dense result: the one costly step of all similarities."""

import warnings

import numpy as np
import torch
from scipy.sparse import csr_array

LARGEST = np.iinfo("int32").max


def dense_product(left_BY: csr_array, right_YX: csr_array) -> np.ndarray:
    """`left @ right`, dense (B, X), in the type of `left`.

    MKL, where torch brings it, writes the sums where they belong and takes a third of the time that scipy needs to
    find their places first.
    """
    nonzero = min(left_BY.nnz, right_YX.nnz)  # MKL refuses a matrix without entries
    if not torch.backends.mkl.is_available() or not 0 < nonzero <= max(left_BY.nnz, right_YX.nnz) <= LARGEST:
        return (left_BY @ right_YX).toarray()
    result = torch.empty(left_BY.shape[0], right_YX.shape[1], dtype=torch.from_numpy(left_BY.data).dtype)
    return torch.addmm(result, _tensor(left_BY), _tensor(right_YX), beta=0, out=result).numpy()


def _tensor(matrix: csr_array) -> torch.Tensor:
    start, index = (torch.from_numpy(a.astype("int32", copy=False)) for a in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            start, index, torch.from_numpy(matrix.data), matrix.shape, check_invariants=False
        )
